//! What a stack of own layers says of each path, as one sequence in path order.
//!
//! Own layers lie over a base, bottom first. Two views of the stack are asked at once: the layers that
//! will stay *below* the one being made, and *all* of them. Where both are the same the new layer only
//! adds; where layers are about to be merged, the second view tells which packed bytes can be taken over.
//!
//! A layer's record hides what is under it: a whiteout or a non-directory everything at and below its
//! path, an opaque directory everything below. One number per open directory suffices to know that: the
//! first layer that still shows.

use std::iter::Peekable;

use crate::entry::{Kind, PathBytes, is_below, path_order};
use crate::table::{Record, Records, TableError};

/// What the own layers say of one path.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) path: PathBytes,
    /// The record that shows among the layers that stay below; a whiteout counts.
    pub(crate) below: Option<(usize, Record)>,
    /// The record that shows among all layers.
    pub(crate) held: Option<(usize, Record)>,
    /// Nothing of the base shows at this path through the layers that stay below.
    pub(crate) base_hidden: bool,
}

/// The merge of the tables of the own layers.
pub(crate) struct Tiers<'a> {
    tables: Vec<Peekable<Records<'a>>>,
    stay: usize,
    open: Vec<Level>,
    next: Option<Said>,
}

/// A path and what each layer that has it says.
type Gathered = (PathBytes, Vec<(usize, Record)>);

#[derive(Debug)]
struct Level {
    path: PathBytes,
    /// Layers from this index on show, in the view of those that stay and in that of all.
    shown_from: [usize; 2],
    base_hidden: bool,
}

impl<'a> Tiers<'a> {
    /// `tables` bottom first; the first `stay` of them stay below the layer being made.
    pub(crate) fn new(tables: Vec<Records<'a>>, stay: usize) -> Result<Tiers<'a>, TableError> {
        let tables = tables.into_iter().map(Iterator::peekable).collect();
        let mut tiers = Tiers { tables, stay, open: Vec::new(), next: None };
        tiers.next = tiers.advance()?;
        Ok(tiers)
    }

    pub(crate) fn peek(&self) -> Option<&Said> {
        self.next.as_ref()
    }

    pub(crate) fn next(&mut self) -> Result<Option<Said>, TableError> {
        let after = self.advance()?;
        Ok(std::mem::replace(&mut self.next, after))
    }

    /// The records of the least path, by layer.
    fn gather(&mut self) -> Result<Option<Gathered>, TableError> {
        let mut least: Option<PathBytes> = None;
        for table in &mut self.tables {
            // an error is the head of its table until it is taken below
            if let Some(Ok(record)) = table.peek()
                && least.as_ref().is_none_or(|path| path_order(&record.entry.path, path).is_lt())
            {
                least = Some(record.entry.path.clone());
            }
        }
        let mut records = Vec::new();
        for (layer, table) in self.tables.iter_mut().enumerate() {
            let is_least = |record: &Result<Record, TableError>| {
                record.as_ref().map_or(true, |r| Some(&r.entry.path) == least.as_ref())
            };
            if let Some(record) = table.next_if(is_least) {
                records.push((layer, record?));
            }
        }
        Ok(least.map(|path| (path, records)))
    }

    fn advance(&mut self) -> Result<Option<Said>, TableError> {
        while let Some((path, records)) = self.gather()? {
            while self.open.last().is_some_and(|level| !is_below(&path, &level.path)) {
                self.open.pop();
            }
            let (mut shown_from, parent_hidden) =
                self.open.last().map_or(([0, 0], false), |level| (level.shown_from, level.base_hidden));
            let mut base_hidden = parent_hidden;
            let mut views = [None, None];
            for (layer, record) in records {
                let children_from = match record.entry.kind {
                    Kind::Dir if record.opaque.is_none() => 0,
                    Kind::Dir => layer,
                    _ => layer + 1,
                };
                for (view, bound) in [self.stay, usize::MAX].into_iter().enumerate() {
                    let parent_from = self.open.last().map_or(0, |level| level.shown_from[view]);
                    if layer >= bound || layer < parent_from {
                        continue;
                    }
                    shown_from[view] = shown_from[view].max(children_from);
                    if view == 0 {
                        base_hidden |= children_from > 0
                            || !matches!(record.entry.kind, Kind::Dir)
                            || record.opaque.is_some();
                    }
                    views[view] = Some((layer, record.clone()));
                }
            }
            let [below, held] = views;
            if below.is_some() || held.is_some() {
                self.open.push(Level { path: path.clone(), shown_from, base_hidden });
                return Ok(Some(Said { path, below, held, base_hidden }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Meta};
    use crate::pack::Extent;
    use crate::table::{Table, TableWriter};

    /// `d` directory, `o` opaque directory, `w` whiteout, `f` file.
    fn table(records: &[(&str, char)]) -> Table {
        let mut writer = TableWriter::create(tempfile::tempfile().unwrap()).unwrap();
        let extent = Extent { offset: 0, header: 512, len: 512 };
        for (path, kind) in records {
            let opaque = (*kind == 'o').then_some(extent);
            let kind = match kind {
                'w' => Kind::Whiteout,
                'f' => Kind::File { size: 0 },
                _ => Kind::Dir,
            };
            let entry = Entry { path: path.as_bytes().to_vec(), kind, meta: Meta::default() };
            writer.push(&Record { entry, extent, opaque, content: None }).unwrap();
        }
        Table::open(writer.finish().unwrap()).unwrap()
    }

    fn said(tables: &[Table], stay: usize) -> Vec<String> {
        let records = tables.iter().map(Table::records).collect();
        let mut tiers = Tiers::new(records, stay).unwrap();
        let mut lines = Vec::new();
        while let Some(said) = tiers.next().unwrap() {
            let layer = |view: &Option<(usize, Record)>| match view {
                Some((layer, record)) if record.entry.kind == Kind::Whiteout => format!("-{layer}"),
                Some((layer, _)) => format!("{layer}"),
                None => "·".into(),
            };
            let hidden = if said.base_hidden { "!" } else { "" };
            let path = String::from_utf8(said.path).unwrap();
            lines.push(format!("{path} {} {}{hidden}", layer(&said.below), layer(&said.held)));
        }
        lines
    }

    #[test]
    fn a_whiteout_hides_the_layers_under_it() {
        let tables = [
            table(&[("a", 'd'), ("a/x", 'f'), ("b", 'f')]),
            table(&[("a", 'w')]),
            table(&[("a", 'd'), ("a/y", 'f')]),
        ];
        assert_eq!(said(&tables, 3), ["a 2 2!", "a/y 2 2!", "b 0 0!"]);
        assert_eq!(said(&tables, 1), ["a 0 2", "a/x 0 ·!", "a/y · 2", "b 0 0!"]);
        assert_eq!(said(&tables, 2), ["a -1 2!", "a/y · 2!", "b 0 0!"]);
    }

    #[test]
    fn an_opaque_directory_hides_children_only_of_layers_under_it() {
        let tables =
            [table(&[("a", 'd'), ("a/x", 'f')]), table(&[("a", 'o'), ("a/y", 'f')]), table(&[("a", 'd')])];
        assert_eq!(said(&tables, 3), ["a 2 2!", "a/y 1 1!"]);
    }

    #[test]
    fn a_file_hides_a_directory() {
        let tables = [table(&[("a", 'd'), ("a/x", 'f')]), table(&[("a", 'f')])];
        assert_eq!(said(&tables, 2), ["a 1 1!"]);
        assert_eq!(said(&tables, 0), ["a · 1"]);
    }
}
