//! What the papers refer to is there: tests, files, links.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn papers() -> Vec<PathBuf> {
    let folder = |name: &str| {
        let entries = std::fs::read_dir(root().join(name)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let mut papers = [folder(""), folder("docs"), folder("docs/adr"), folder("deploy")].concat();
    papers.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    papers
}

#[test]
fn every_test_that_the_features_name_exists() {
    let page = std::fs::read_to_string(root().join("docs/features.md")).unwrap();
    let names = page.split('`').filter(|text| text.contains(".rs::"));
    let mut count = 0;
    for name in names {
        let (file, test) = name.split_once("::").unwrap();
        let source = std::fs::read_to_string(root().join(file))
            .unwrap_or_else(|error| panic!("docs/features.md names {file}: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "docs/features.md names {name}");
        count += 1;
    }
    assert!(count > 25, "the table has lost its tests");
}

#[test]
fn every_row_that_works_names_a_test() {
    let page = std::fs::read_to_string(root().join("docs/features.md")).unwrap();
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let works = cells[2].starts_with("yes") || cells[2].starts_with("part");
        assert!(!works || cells[4].starts_with('`'), "no test is named: {row}");
    }
}

#[test]
fn every_relative_link_leads_somewhere() {
    for paper in papers() {
        let text = std::fs::read_to_string(&paper).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let target = target.split('#').next().unwrap();
            let there = paper.parent().unwrap_or(Path::new("")).join(target).exists();
            assert!(there, "{} links to {target}", paper.display());
        }
    }
}
