//! Pausing real control groups: that they stop, and that they always go on.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests with a harness of their own"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use linux::freezer::{Freezer, State};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use save::pause::{DEADLINE, PauseError, PauseTarget, freeze, recover};

mod standstill;
use standstill::{Group, Hierarchy, Need, Process, wait_for};

/// Set for the process that plays the saver: `PID RUN_DIR`.
const SAVER: &str = "HEADSTART_TEST_SAVER";

const V1: &[Need] = &[Need::Root, Need::FreezerV1];
const V2: &[Need] = &[Need::Root, Need::FreezerV2];

fn main() {
    if let Ok(order) = std::env::var(SAVER) {
        return play_saver(&order);
    }
    standstill::run(&[
        ("v1::stops_and_goes_on", V1, || stops_and_goes_on(Hierarchy::V1)),
        ("v2::stops_and_goes_on", V2, || stops_and_goes_on(Hierarchy::V2)),
        ("v1::groups_below_stop_too", V1, || groups_below_stop_too(Hierarchy::V1)),
        ("v2::groups_below_stop_too", V2, || groups_below_stop_too(Hierarchy::V2)),
        ("v1::killed_saver", V1, || killed_saver(Hierarchy::V1)),
        ("v2::killed_saver", V2, || killed_saver(Hierarchy::V2)),
        ("v1::killed_saver_and_guard", V1, || killed_saver_and_guard(Hierarchy::V1)),
        ("v2::killed_saver_and_guard", V2, || killed_saver_and_guard(Hierarchy::V2)),
        ("v1::interrupted_process_group", V1, || interrupted_process_group(Hierarchy::V1)),
        ("v1::was_paused_stays_paused", V1, || was_paused_stays_paused(Hierarchy::V1)),
        ("v2::was_paused_stays_paused", V2, || was_paused_stays_paused(Hierarchy::V2)),
        ("v1::paused_by_a_group_above", V1, || paused_by_a_group_above(Hierarchy::V1)),
        ("v2::paused_by_a_group_above", V2, || paused_by_a_group_above(Hierarchy::V2)),
        ("v1::deadline", V1, || deadline(Hierarchy::V1)),
        ("v2::deadline", V2, || deadline(Hierarchy::V2)),
        ("v1::thawed_by_somebody_else", V1, || thawed_by_somebody_else(Hierarchy::V1)),
        ("v1::our_own_group_is_refused", V1, || our_own_group_is_refused(Hierarchy::V1)),
        ("v2::our_own_group_is_refused", V2, || our_own_group_is_refused(Hierarchy::V2)),
        ("v1::strangers_are_refused", V1, || strangers_are_refused(Hierarchy::V1)),
        ("v2::strangers_are_refused", V2, || strangers_are_refused(Hierarchy::V2)),
        ("v1::a_process_on_the_host_is_no_container", V1, || no_container(Hierarchy::V1)),
        ("the_root_group_is_refused", V1, the_root_group_is_refused),
        ("a_process_that_ended_is_gone", &[Need::Root], a_process_that_ended_is_gone),
        ("v1::two_saves_take_turns", V1, || two_saves_take_turns(Hierarchy::V1)),
        ("v1::recovery_leaves_running_saves_alone", V1, || running_save_is_left_alone(Hierarchy::V1)),
    ]);
}

/// Freezes, says so or why not, and waits to be killed.
fn play_saver(order: &str) {
    let (pid, run_dir) = order.split_once(' ').unwrap();
    let target = PauseTarget::of(Pid::from_raw(pid.parse().unwrap()).unwrap()).unwrap();
    // Told to begin by a line on stdin, when the test has put us where it wants us.
    std::io::stdin().lines().next();
    let pause = freeze(&target, Duration::from_secs(60), Path::new(run_dir));
    match &pause {
        Ok(_) => println!("frozen"),
        Err(error) => println!("{error:?}"),
    }
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

struct Scene {
    // Dropped in this order: processes before their group.
    container: Process,
    freezer: Freezer,
    group: Group,
    run: tempfile::TempDir,
}

impl Scene {
    fn set(hierarchy: Hierarchy) -> Scene {
        let group = Group::make(hierarchy);
        let container = group.container();
        let freezer = Freezer::open(&group.path).unwrap();
        Scene { container, freezer, group, run: tempfile::tempdir().unwrap() }
    }

    fn target(&self) -> PauseTarget {
        PauseTarget::of(Pid::from_raw(self.container.pid()).unwrap()).unwrap()
    }

    fn freeze(&self) -> Result<save::pause::Pause, PauseError> {
        freeze(&self.target(), DEADLINE, self.run.path())
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.run.path().join("frozen")).map_or(0, Iterator::count)
    }

    /// Starts another process that freezes; `prepare` may move it before it does. Gives what it says.
    fn saver(&self, prepare: impl FnOnce(&Process)) -> (Process, String) {
        use std::os::unix::process::CommandExt;
        let order = format!("{} {}", self.container.pid(), self.run.path().display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(SAVER, order).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut saver = Process::from(command.spawn().unwrap());
        prepare(&saver);
        saver.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut said = String::new();
        BufReader::new(saver.0.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        (saver, said.trim_end().to_owned())
    }

    #[track_caller]
    fn assert_runs(&self) {
        assert_eq!(self.freezer.state().unwrap(), State::Thawed);
        let before = self.container.cpu_ticks();
        wait_for("the container computes", Duration::from_secs(10), || self.container.cpu_ticks() > before);
    }

    #[track_caller]
    fn assert_stands_still(&self) {
        assert_eq!(self.freezer.state().unwrap(), State::Frozen);
        let before = self.container.cpu_ticks();
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(self.container.cpu_ticks(), before, "it computes although it is frozen");
    }
}

fn children_of(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn stops_and_goes_on(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    scene.assert_runs();
    let pause = scene.freeze().unwrap();
    scene.assert_stands_still();
    assert!(pause.still_frozen());
    assert_eq!(scene.records(), 1);
    let thawed = pause.thaw().unwrap();
    assert!(!thawed.was_paused_before && thawed.paused_for >= Duration::from_millis(60));
    scene.assert_runs();
    assert_eq!(scene.records(), 0);

    drop(scene.freeze().unwrap());
    scene.assert_runs();
    assert_eq!(scene.records(), 0);
}

fn groups_below_stop_too(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let below = scene.group.below("below");
    // A fellow: same mount namespace as the container, group of its own.
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &scene.container.pid().to_string(), "sh", "-c", "while :; do :; done"]);
    let fellow = Process::from(command.spawn().unwrap());
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    wait_for("nsenter", Duration::from_secs(10), || {
        namespace(fellow.pid()) == namespace(scene.container.pid()) && fellow.cpu_ticks() > 0
    });
    below.add(fellow.pid());
    let pause = scene.freeze().unwrap();
    let before = fellow.cpu_ticks();
    scene.assert_stands_still();
    assert_eq!(fellow.cpu_ticks(), before);
    pause.thaw().unwrap();
    wait_for("the fellow computes", Duration::from_secs(10), || fellow.cpu_ticks() > before);
}

fn killed_saver(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let (mut saver, said) = scene.saver(|_| {});
    assert_eq!(said, "frozen");
    scene.assert_stands_still();
    saver.0.kill().unwrap();
    wait_for("the guard thaws", GUARD_ACTS, || scene.freezer.state().unwrap() == State::Thawed);
    scene.assert_runs();
    wait_for("the guard removes the record", Duration::from_secs(5), || scene.records() == 0);
}

fn killed_saver_and_guard(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let (mut saver, said) = scene.saver(|_| {});
    assert_eq!(said, "frozen");
    let guards = children_of(saver.pid());
    assert_eq!(guards.len(), 1);
    kill(guards[0]);
    saver.0.kill().unwrap();
    saver.0.wait().unwrap();
    scene.assert_stands_still();
    assert_eq!(recover(scene.run.path()).unwrap(), std::slice::from_ref(&scene.group.path));
    scene.assert_runs();
    assert_eq!(scene.records(), 0);
    assert!(recover(scene.run.path()).unwrap().is_empty());
}

/// Long for a busy machine, and well below the deadline of the pause, which would thaw in any case.
const GUARD_ACTS: Duration = Duration::from_millis(1200);

fn interrupted_process_group(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let (mut saver, said) = scene.saver(|_| {});
    assert_eq!(said, "frozen");
    for signal in [Signal::INT, Signal::HUP, Signal::TERM, Signal::KILL] {
        // The first one ends the saver; if the guard were in its group, the last would end it too.
        let _ = kill_process_group(Pid::from_raw(saver.pid()).unwrap(), signal);
    }
    saver.0.wait().unwrap();
    wait_for("the guard thaws", GUARD_ACTS, || scene.freezer.state().unwrap() == State::Thawed);
}

fn was_paused_stays_paused(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    scene.freezer.request_freeze().unwrap();
    wait_for("docker pause", Duration::from_secs(5), || scene.freezer.state().unwrap() == State::Frozen);
    let pause = scene.freeze().unwrap();
    assert!(pause.was_paused_before() && pause.still_frozen());
    let thawed = pause.thaw().unwrap();
    assert_eq!((thawed.was_paused_before, thawed.paused_for), (true, Duration::ZERO));
    scene.assert_stands_still();

    let (mut saver, said) = scene.saver(|_| {});
    assert_eq!(said, "frozen");
    assert!(children_of(saver.pid()).is_empty(), "nobody guards what is not ours");
    saver.0.kill().unwrap();
    saver.0.wait().unwrap();
    assert!(recover(scene.run.path()).unwrap().is_empty());
    scene.assert_stands_still();
    assert_eq!(scene.records(), 0);
}

fn paused_by_a_group_above(hierarchy: Hierarchy) {
    let above = Group::make(hierarchy);
    let group = above.below("container");
    let container = group.container();
    let freezer = Freezer::open(&above.path).unwrap();
    freezer.request_freeze().unwrap();
    wait_for("the pod stops", Duration::from_secs(5), || freezer.state().unwrap() == State::Frozen);
    let run = tempfile::tempdir().unwrap();
    let target = PauseTarget::of(Pid::from_raw(container.pid()).unwrap()).unwrap();
    assert!(freeze(&target, DEADLINE, run.path()).unwrap().thaw().unwrap().was_paused_before);
    assert_eq!(freezer.state().unwrap(), State::Frozen);
    freezer.request_thaw().unwrap();
    let own = Freezer::open(&group.path).unwrap();
    wait_for("all goes on", Duration::from_secs(5), || own.state().unwrap() == State::Thawed);
    drop(container);
    drop(group);
}

fn deadline(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let pause = freeze(&scene.target(), Duration::from_millis(300), scene.run.path()).unwrap();
    assert!(pause.still_frozen());
    wait_for("the guard ends a pause that is too long", Duration::from_secs(5), || {
        scene.freezer.state().unwrap() == State::Thawed
    });
    assert!(pause.elapsed() >= Duration::from_millis(250));
    assert!(!pause.still_frozen());
    let error = pause.thaw().unwrap_err();
    assert!(matches!(error, PauseError::Broken { .. }), "{error:?}");
    scene.assert_runs();
    assert_eq!(scene.records(), 0);
}

fn thawed_by_somebody_else(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let pause = scene.freeze().unwrap();
    scene.freezer.request_thaw().unwrap();
    assert!(!pause.still_frozen());
    assert!(matches!(pause.thaw(), Err(PauseError::Broken { .. })));
    scene.assert_runs();
}

fn our_own_group_is_refused(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let below = scene.group.below("below");
    for group in [&scene.group, &below] {
        let (saver, said) = scene.saver(|saver| group.add(saver.pid()));
        assert!(said.starts_with("HoldsUs"), "{said}");
        scene.assert_runs();
        drop(saver);
    }
    assert_eq!(scene.records(), 0);
}

fn strangers_are_refused(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let below = scene.group.below("below");
    for group in [&scene.group, &below] {
        let stranger = Process::from(Command::new("sleep").arg("60").spawn().unwrap());
        group.add(stranger.pid());
        match scene.freeze() {
            Err(PauseError::HoldsStranger { pid, .. }) => assert_eq!(pid, stranger.pid()),
            other => panic!("{other:?}"),
        }
        scene.assert_runs();
    }
    assert_eq!(scene.records(), 0);
    scene.freeze().unwrap().thaw().unwrap();
}

fn no_container(hierarchy: Hierarchy) {
    let group = Group::make(hierarchy);
    let service = Process::from(Command::new("sleep").arg("60").spawn().unwrap());
    group.add(service.pid());
    let target = PauseTarget::of(Pid::from_raw(service.pid()).unwrap()).unwrap();
    let run = tempfile::tempdir().unwrap();
    let result = freeze(&target, DEADLINE, run.path());
    assert!(matches!(result, Err(PauseError::HoldsStranger { .. })), "{result:?}");
}

fn the_root_group_is_refused() {
    let mut command = Command::new("unshare");
    let process = Process::from(command.args(["-m", "sleep", "60"]).spawn().unwrap());
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid())).unwrap();
    let in_roots = groups
        .lines()
        .all(|line| line.ends_with(":/") || !line.contains("freezer") && !line.starts_with("0:"));
    let target = PauseTarget::of(Pid::from_raw(process.pid()).unwrap()).unwrap();
    let run = tempfile::tempdir().unwrap();
    let result = freeze(&target, DEADLINE, run.path());
    if in_roots {
        assert!(matches!(result, Err(PauseError::RootCgroup { .. })), "{result:?}");
    } else {
        // Run in a session of its own, the process shares our group.
        assert!(matches!(result, Err(PauseError::HoldsUs { .. })), "{result:?}");
    }
}

fn a_process_that_ended_is_gone() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    child.wait().unwrap();
    assert!(matches!(PauseTarget::of(pid), Err(PauseError::Gone { .. })));
}

fn two_saves_take_turns(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let pause = scene.freeze().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    assert!(!pause.was_paused_before(), "took the other's freeze for a paused container");
                    std::thread::sleep(Duration::from_millis(1));
                    assert!(pause.still_frozen());
                    inside.fetch_sub(1, Ordering::SeqCst);
                    pause.thaw().unwrap();
                }
            });
        }
    });
    scene.assert_runs();
    assert_eq!(scene.records(), 0);
}

fn running_save_is_left_alone(hierarchy: Hierarchy) {
    let scene = Scene::set(hierarchy);
    let pause = scene.freeze().unwrap();
    let since = Instant::now();
    assert!(recover(scene.run.path()).unwrap().is_empty());
    assert!(since.elapsed() < DEADLINE);
    assert!(pause.still_frozen());
    pause.thaw().unwrap();
}
