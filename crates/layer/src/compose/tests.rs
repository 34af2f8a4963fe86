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
