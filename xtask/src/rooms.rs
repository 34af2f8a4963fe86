//! The walls: which room may use which, as the table of docs/architecture.md says.
//!
//! Dependencies for tests (`dev-dependencies`) are exempt: they exist in no product. What lies outside
//! of `crates/` is no room and may use any, but no room may use it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const HEADER: [&str; 4] = ["room", "now", "may use (workspace)", "must never"];

/// The table of rooms.
#[derive(Debug)]
pub(crate) struct Table {
    rooms: BTreeMap<String, Room>,
}

#[derive(Debug)]
struct Room {
    exists: bool,
    may_use: BTreeSet<String>,
}

impl Table {
    /// Finds the table in the Markdown of the page.
    pub(crate) fn parse(page: &str) -> Result<Self> {
        let mut rows = page.lines().map(cells).skip_while(|cells| cells[..] != HEADER).skip(2).peekable();
        ensure!(rows.peek().is_some(), "docs/architecture.md has no table headed {HEADER:?}");
        let mut rooms = BTreeMap::new();
        for row in rows.take_while(|cells| !cells.is_empty()) {
            let [name, now, may_use, _] = row[..] else { bail!("a row of rooms has {} cells", row.len()) };
            let exists = match now {
                "yes" => true,
                "" => false,
                other => bail!("room {name}: \"now\" is \"yes\" or empty, not {other:?}"),
            };
            let may_use =
                may_use.split(',').map(str::trim).filter(|name| *name != "—").map(str::to_owned).collect();
            ensure!(
                rooms.insert(name.to_owned(), Room { exists, may_use }).is_none(),
                "room {name} stands in the table twice"
            );
        }
        for (name, room) in &rooms {
            for other in &room.may_use {
                ensure!(rooms.contains_key(other), "room {name} may use {other:?}, which is no room");
            }
        }
        Ok(Self { rooms })
    }
}

/// The cells of a Markdown table row, without the code marks; empty for any other line.
fn cells(line: &str) -> Vec<&str> {
    let row = line.trim().strip_prefix('|').and_then(|line| line.strip_suffix('|'));
    row.map_or_else(Vec::new, |row| row.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
}

/// A package of the workspace, as cargo describes it.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    name: String,
    /// Its directory, relative to the top of the checkout.
    dir: String,
    /// Packages of the workspace that it needs for more than its tests.
    uses: BTreeSet<String>,
}

/// Asks cargo for the packages of the workspace.
pub(crate) fn packages(root: &Path) -> Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("parse cargo metadata")?;
    packages_from(&metadata, root)
}

fn packages_from(metadata: &Value, root: &Path) -> Result<Vec<Package>> {
    let described = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("cargo metadata lacks a string");
    described
        .iter()
        .map(|package| {
            let manifest = text(&package["manifest_path"])?;
            let dir = Path::new(&manifest).parent().unwrap_or(root);
            let dir = dir.strip_prefix(root).with_context(|| format!("{manifest} lies outside"))?;
            let needed = package["dependencies"].as_array().context("a package lists no dependencies")?;
            let uses = needed
                .iter()
                .filter(|dependency| dependency["path"].is_string() && dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .collect::<Result<_>>()?;
            Ok(Package { name: text(&package["name"])?, dir: dir.to_string_lossy().into_owned(), uses })
        })
        .collect()
}

/// Compares the real dependencies with the table; one line per arrow that must not be.
pub(crate) fn check(table: &Table, packages: &[Package]) -> Vec<String> {
    let mut complaints = Vec::new();
    let is_room = |package: &&Package| package.dir.starts_with("crates/");
    for package in packages.iter().filter(is_room) {
        let Package { name, dir, uses } = package;
        if *dir != format!("crates/{name}") {
            complaints.push(format!("{dir}: the package is called {name}; folder and package share a name"));
        }
        let Some(room) = table.rooms.get(name) else {
            complaints.push(format!("{dir}: no room {name} in docs/architecture.md"));
            continue;
        };
        if !room.exists {
            complaints.push(format!("docs/architecture.md: room {name} exists, but \"now\" is empty"));
        }
        for other in uses.difference(&room.may_use) {
            complaints.push(format!("{dir}/Cargo.toml: {name} must not use {other}"));
        }
    }
    for (name, room) in &table.rooms {
        let found = packages.iter().filter(is_room).any(|package| package.name == *name);
        if room.exists && !found {
            complaints.push(format!("docs/architecture.md: room {name} is marked as there, but is not"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PAGE: &str = "
Text before.

| room | now | may use (workspace) | must never |
|---|---|---|---|
| `linux` | yes | — | know what the calls are for |
| layer | yes | linux | know environments |
| cli | yes | layer, linux | link node |
| node | | layer | decide policy |

| other | table |
|---|---|
";

    fn package(name: &str, uses: &[&str]) -> Package {
        let uses = uses.iter().map(|&name| name.to_owned()).collect();
        Package { name: name.to_owned(), dir: format!("crates/{name}"), uses }
    }

    fn complaints(packages: &[Package]) -> Vec<String> {
        check(&Table::parse(PAGE).unwrap(), packages)
    }

    fn sound() -> Vec<Package> {
        vec![package("linux", &[]), package("layer", &["linux"]), package("cli", &["layer", "linux"])]
    }

    #[test]
    fn allowed_arrows_pass() {
        assert_eq!(complaints(&sound()), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_caught() {
        let mut packages = sound();
        packages[0].uses.insert("layer".to_owned());
        assert_eq!(complaints(&packages), ["crates/linux/Cargo.toml: linux must not use layer"]);
    }

    #[test]
    fn a_room_must_not_use_what_is_no_room() {
        let mut packages = sound();
        packages[1].uses.insert("harness".to_owned());
        assert_eq!(complaints(&packages), ["crates/layer/Cargo.toml: layer must not use harness"]);
    }

    #[test]
    fn what_is_no_room_may_use_any() {
        let mut packages = sound();
        let uses = BTreeSet::from(["layer".to_owned(), "cli".to_owned()]);
        packages.push(Package { name: "bench".to_owned(), dir: "bench".to_owned(), uses });
        assert_eq!(complaints(&packages), Vec::<String>::new());
    }

    #[test]
    fn table_and_tree_name_the_same_rooms() {
        let mut packages = sound();
        packages.remove(2);
        packages.push(package("node", &[]));
        packages.push(package("utils", &[]));
        assert_eq!(
            complaints(&packages),
            [
                "docs/architecture.md: room node exists, but \"now\" is empty",
                "crates/utils: no room utils in docs/architecture.md",
                "docs/architecture.md: room cli is marked as there, but is not",
            ]
        );
    }

    #[test]
    fn only_dependencies_for_tests_are_exempt() {
        let dependency =
            |name: &str, kind: Value, path: Value| json!({ "name": name, "kind": kind, "path": path });
        let metadata = json!({ "packages": [{
            "name": "layer",
            "manifest_path": "/top/crates/layer/Cargo.toml",
            "dependencies": [
                dependency("linux", Value::Null, json!("/top/crates/linux")),
                dependency("codegen", json!("build"), json!("/top/codegen")),
                dependency("harness", json!("dev"), json!("/top/tests/harness")),
                dependency("zstd", Value::Null, Value::Null),
            ],
        }]});
        let packages = packages_from(&metadata, Path::new("/top")).unwrap();
        assert_eq!(packages[0].dir, "crates/layer");
        assert_eq!(packages[0].uses, BTreeSet::from(["codegen".to_owned(), "linux".to_owned()]));
    }

    #[test]
    fn a_broken_table_is_refused() {
        assert!(Table::parse("no table").is_err());
        let unknown = Table::parse(&PAGE.replace("layer, linux", "layer, linus")).unwrap_err();
        assert_eq!(unknown.to_string(), "room cli may use \"linus\", which is no room");
        assert!(Table::parse(&PAGE.replace("| node |", "| cli |")).is_err());
    }

    #[test]
    fn the_page_of_this_tree_agrees_with_the_tree() {
        let root = crate::root();
        let page = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
        let found = check(&Table::parse(&page).unwrap(), &packages(&root).unwrap());
        assert_eq!(found, Vec::<String>::new());
    }
}
