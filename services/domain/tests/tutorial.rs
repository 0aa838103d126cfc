//! Follows docs/add-a-domain.md in a copy of the repository, and runs the specifications in it.
//!
//! The copy is kept below the target directory and shares it, so that no dependency is compiled
//! twice. It bears another version: cargo would take its crates for those of the repository. Only
//! files that differ are written, so that a second run finds everything compiled.

#![allow(clippy::disallowed_methods, reason = "following a tutorial is I/O")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What of the repository the copy needs: all that the workspace names.
const COPIED: &[&str] = &[
    ".cargo",
    "Cargo.lock",
    "build.rs",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "proto",
    "services",
    "clients",
    "tests",
];

#[test]
fn the_tutorial_adds_a_domain() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/add-a-domain.md")).expect("the tutorial");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let copy = target.join("tutorial");

    let steps = steps(&page);
    let names: Vec<_> = steps.iter().map(|step| (step.language, step.file)).collect();
    assert_eq!(
        names,
        [
            ("proto", "proto/loyalty/v1/points_card.proto"),
            ("rust", "services/domain/src/points_card.rs"),
            ("diff", "services/domain/src/lib.rs"),
            ("proto", "proto/rewards/v1/reward.proto"),
            ("rust", "services/domain/src/reward.rs"),
            ("diff", "services/domain/src/lib.rs"),
            ("diff", "services/domain/src/lib.rs"),
        ],
        "the tutorial promises two files and one line, and for a saga two files and two lines"
    );

    let mut written = Vec::new();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the manifest");
    write_if_changed(&copy.join("Cargo.toml"), with_other_version(&manifest).as_bytes());
    written.push(copy.join("Cargo.toml"));
    let mut files = BTreeMap::<&str, String>::new();
    for step in &steps {
        let content = match (step.language, files.get(step.file)) {
            ("diff", Some(changed)) => patched(changed, &step.text),
            ("diff", None) => {
                patched(&fs::read_to_string(root.join(step.file)).expect("a file"), &step.text)
            }
            _ => {
                assert!(!root.join(step.file).exists(), "{} exists already", step.file);
                step.text.clone()
            }
        };
        files.insert(step.file, content);
    }
    for (file, content) in files {
        write_if_changed(&copy.join(file), content.as_bytes());
        written.push(copy.join(file));
    }
    for name in COPIED {
        copy_tree(&root.join(name), &copy.join(name), &mut written);
    }
    remove_all_but(&copy, &written);

    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "-p", "daybook-domain", "-p", "daybook-saga"])
        .args(["--lib", "--test", "registration"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(&copy)
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));

    for (file, name, least) in [(1, "points_card", 4), (4, "reward", 3)] {
        let specs = steps[file].text.matches("#[test]").count();
        let ran = text.lines().filter(|l| l.starts_with(&format!("test {name}::specs::")));
        assert_eq!(ran.filter(|l| l.ends_with(" ... ok")).count(), specs, "{text}");
        assert!(specs >= least, "the tutorial has specifications of {name}");
    }
    assert!(text.contains("every_saga_and_whatever_starts_one_is_followed ... ok"), "{text}");
    assert!(text.contains("every_aggregate_of_the_contract_is_registered_once ... ok"), "{text}");
}

/// A block of code that names its file after its language.
struct Step<'a> {
    language: &'a str,
    file: &'a str,
    text: String,
}

fn steps(page: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let text: String =
            lines.by_ref().take_while(|l| *l != "```").map(|l| format!("{l}\n")).collect();
        if let Some((language, file)) = info.split_once(' ') {
            steps.push(Step { language, file, text });
        }
    }
    steps
}

fn with_other_version(manifest: &str) -> String {
    let start = manifest.find("[workspace.package]\nversion = \"").expect("the version");
    let quoted = start + manifest[start..].find('"').expect("a quote") + 1;
    let end = quoted + manifest[quoted..].find('"').expect("a quote");
    format!("{}-tutorial{}", &manifest[..end], &manifest[end..])
}

/// Adds the `+` lines of a diff after the line of context before them.
fn patched(original: &str, diff: &str) -> String {
    let (context, added): (Vec<_>, Vec<_>) = diff.lines().partition(|l| l.starts_with(' '));
    let [context] = context[..] else { panic!("one line of context, not {context:?}") };
    let [added] = added[..] else { panic!("one line to add, not {added:?}") };
    let context = format!("{}\n", &context[1..]);
    let added = added.strip_prefix('+').expect("an added line");
    assert_eq!(original.matches(&context).count(), 1, "the context is there once");
    original.replacen(&context, &format!("{context}{added}\n"), 1)
}

/// Copies a file or a directory, but not what the tutorial has written.
fn copy_tree(from: &Path, to: &Path, written: &mut Vec<PathBuf>) {
    if !from.exists() {
        return;
    }
    if from.is_dir() {
        for entry in fs::read_dir(from).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            copy_tree(&from.join(&name), &to.join(&name), written);
        }
    } else if !written.contains(&to.to_owned()) {
        write_if_changed(to, &fs::read(from).expect("a file"));
        written.push(to.to_owned());
    }
}

fn write_if_changed(path: &Path, content: &[u8]) {
    if fs::read(path).is_ok_and(|old| old == content) {
        return;
    }
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, content).expect("the copy can be written");
}

/// Removes what an earlier run left and the repository does not have any more.
fn remove_all_but(directory: &Path, kept: &[PathBuf]) {
    for entry in fs::read_dir(directory).expect("the copy") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            remove_all_but(&path, kept);
        } else if !kept.contains(&path) {
            fs::remove_file(&path).expect("an old file can be removed");
        }
    }
}
