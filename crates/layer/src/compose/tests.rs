use super::*;
use crate::entry::Meta;
use crate::plan::PlanWriter;

const AT: Extent = Extent { offset: 0, header: 512, len: 512 };

fn step(path: &str, kind: Kind, source: Source, was: Was) -> Step {
    Step { entry: Entry { path: path.into(), kind, meta: Meta::default() }, source, hash: None, was }
}

fn fifo(path: &str) -> Step {
    step(path, Kind::Fifo, Source::Nothing, Was::Absent)
}

fn dir(path: &str, was: Was) -> Step {
    step(path, Kind::Dir, Source::Nothing, was)
}

/// A layer of `d` and `d/b`.
fn table() -> Table {
    let mut table = TableWriter::create(tempfile::tempfile().unwrap()).unwrap();
    for step in [dir("d", Was::Absent), fifo("d/b")] {
        table.push(&Record { entry: step.entry, extent: AT, opaque: None, content: None }).unwrap();
    }
    Table::open(table.finish().unwrap()).unwrap()
}

fn allows(steps: &[Step]) -> bool {
    let scratch = tempfile::tempdir().unwrap();
    let mut plan = PlanWriter::new(&SpillDir::new(scratch.path()));
    for step in steps {
        plan.push(step).unwrap();
    }
    Addition::allows(&table(), &mut plan.finish().unwrap()).unwrap()
}

#[test]
fn only_what_is_new_may_follow_in_the_same_layer() {
    assert!(allows(&[dir("d", Was::Parent), fifo("d/a"), fifo("d/c"), fifo("z")]));
    assert!(!allows(&[dir("d", Was::Present)]), "written again");
    assert!(!allows(&[dir("d", Was::Parent), fifo("d/b")]), "written again");
    assert!(!allows(&[step("z", Kind::Whiteout, Source::Nothing, Was::Present)]), "hides");
}

#[test]
fn a_plan_out_of_path_order_may_not_follow() {
    // it comes before the others, and would be written after its children of the first plan
    assert!(!allows(&[fifo("a"), dir("z", Was::Replaced)]));
    let taken = Source::Member { layer: 0, extent: AT };
    assert!(!allows(&[fifo("a"), step("z", Kind::Fifo, taken, Was::Absent)]));
    let table = table();
    let mut addition = Addition::to(&table);
    assert!(addition.has(&fifo("d/b")).unwrap());
    assert!(addition.has(&dir("d", Was::Parent)).is_err());
}

/// Packs nothing; tells what was left out.
#[derive(Default)]
struct LeavesOut(Vec<PathBytes>);

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Table(#[from] TableError),
}

impl Feed for LeavesOut {
    type Error = Failed;
    fn upper(&mut self, _: &mut Packer, _: Entry, _: &Node) -> Result<Fed, Failed> {
        Ok(Fed::Deferred)
    }
    fn lower(&mut self, _: &mut Packer, _: Entry, _: &Place) -> Result<Fed, Failed> {
        Ok(Fed::Deferred)
    }
    fn unrepresentable(&mut self, entry: &Entry) {
        self.0.push(entry.path.clone());
    }
    fn progress(&mut self, _: u64) -> Result<(), Failed> {
        Ok(())
    }
}

#[test]
fn what_a_tar_cannot_hold_is_left_out_with_the_links_to_it() {
    let scratch = tempfile::tempdir().unwrap();
    let spill = SpillDir::new(scratch.path());
    let mut plan = PlanWriter::new(&spill);
    let place = Source::Lower(Place { layer: 0, path: b"odd".to_vec() });
    let mut odd = step("odd", Kind::File { size: 1 }, place, Was::Absent);
    odd.entry.meta.xattrs = vec![(b"user.large".to_vec(), vec![0; 2 << 20])];
    let link = |path, target: &str| {
        step(path, Kind::Hardlink { target: target.into() }, Source::Nothing, Was::Absent)
    };
    for step in [odd, link("odd.1", "odd"), link("odd.2", "odd.1"), fifo("z")] {
        plan.push(&step).unwrap();
    }
    let mut plan = plan.finish().unwrap();
    let options = PackOptions { compression: crate::codec::Compression::None, threads: 1 };
    let blob = tempfile::tempfile().unwrap();
    let mut composer = Composer::begin::<Failed>(blob, &options, &[], &mut plan, &spill).unwrap();
    let mut feed = LeavesOut::default();
    composer.run(&mut plan, &[], &mut feed, &mut |_| Ok(false)).unwrap();
    assert_eq!(feed.0, [&b"odd"[..], b"odd.1", b"odd.2"]);
    let table = composer.table(tempfile::tempfile().unwrap(), &spill).unwrap();
    let paths: Vec<_> = table.records().map(|record| record.unwrap().entry.path).collect();
    assert_eq!(paths, [b"z"]);
}
