//! buf: the lint rules of `buf.yaml`, and no break with what was released.
//!
//! `baseline.binpb` is the contract as it was last committed. A change of the contract must be
//! compatible with it, on the wire and in JSON, and is committed together with a new baseline.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use daybook_contract::FILE_DESCRIPTOR_SET;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::FileDescriptorSet;

use crate::path;

const UPDATE: &str = "UPDATE_BASELINE=1 cargo test -p daybook-contract --test contract baseline";

/// Where the program is: on the PATH, or installed by npm below `target/`.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if Command::new("buf").arg("--version").output().is_ok_and(|out| out.status.success()) {
            return PathBuf::from("buf");
        }
        let installed = install().unwrap_or_else(|problem| {
            panic!(
                "buf is not on the PATH and could not be installed: {problem}\ninstall it \
                 (https://buf.build/docs/cli/installation), or npm, and run this test again"
            )
        });
        installed.join("node_modules/.bin/buf")
    })
}

/// Installs the version of `buf/package-lock.json`, whose checksums npm compares.
fn install() -> Result<PathBuf, String> {
    let lock = fs::read_to_string(path("buf/package-lock.json")).map_err(|e| e.to_string())?;
    let version =
        lock.split("\"@bufbuild/buf\": \"").nth(1).and_then(|rest| rest.split('"').next());
    let version = version.ok_or("buf/package-lock.json names no version of buf")?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let installed = target.join(format!("buf-{version}"));
    if installed.join("node_modules/.bin/buf").exists() {
        return Ok(installed);
    }
    // Made elsewhere and then moved: what is at `installed` is complete.
    let making = target.join(format!("buf-{version}.{}", std::process::id()));
    fs::create_dir_all(&making).map_err(|e| format!("{}: {e}", making.display()))?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(path("buf").join(file), making.join(file)).map_err(|e| format!("{file}: {e}"))?;
    }
    let out = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&making)
        .output()
        .map_err(|e| format!("npm does not run: {e}"))?;
    if !out.status.success() {
        return Err(format!("npm ci failed:\n{}", String::from_utf8_lossy(&out.stderr)));
    }
    if let Err(error) = fs::rename(&making, &installed)
        && !installed.exists()
    {
        return Err(format!("{}: {error}", installed.display()));
    }
    // Left over when another test run was faster.
    let _ = fs::remove_dir_all(&making);
    Ok(installed)
}

fn buf(arguments: &[&str]) -> Output {
    Command::new(program())
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap_or_else(|error| panic!("{} does not run: {error}", program().display()))
}

#[track_caller]
fn succeeds(out: &Output, meaning: &str) {
    let (stdout, stderr) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{meaning}\n{stdout}{stderr}");
}

/// The contract without comments: what matters to compatibility.
fn without_comments() -> Vec<u8> {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set.encode_to_vec()
}

/// Compares a contract with an older one. Both are descriptor sets of one compiler, because those of
/// buf and protox bring different versions of google/protobuf/descriptor.proto.
fn breaking(name: &str, current: &[u8], against: &Path) -> Output {
    let file = format!("{name}.{}.binpb", std::process::id());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    fs::write(&file, current).unwrap();
    let out = buf(&["breaking", file.to_str().unwrap(), "--against", against.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    out
}

#[test]
fn the_contract_passes_buf_lint() {
    succeeds(&buf(&["lint"]), "the contract breaks rules of buf.yaml:");
}

#[test]
fn the_contract_is_compatible_with_its_baseline() {
    let (baseline, current) = (path("baseline.binpb"), without_comments());
    let update = std::env::var_os("UPDATE_BASELINE").is_some();
    if update && !baseline.exists() {
        fs::write(&baseline, &current).unwrap();
    }
    succeeds(
        &breaking("current", FILE_DESCRIPTOR_SET, &baseline),
        "the contract breaks what was committed before; give the changed part a new number or \
         name, or a new version of its package. When nobody can have used it yet, remove \
         tests/contract/baseline.binpb and make it anew with UPDATE_BASELINE=1:",
    );
    if update {
        fs::write(&baseline, &current).unwrap();
    }
    assert!(
        fs::read(&baseline).unwrap() == current,
        "the contract has changed and is compatible with what it was; take it as the new baseline \
         and commit tests/contract/baseline.binpb with it:\n{UPDATE}"
    );
}

#[test]
fn buf_finds_a_broken_contract() {
    // Whether the comparison compares at all: a field changes its number.
    let mut set = FileDescriptorSet::decode(without_comments().as_slice()).unwrap();
    let file = set.file.iter_mut().find(|file| file.name() == "daybook/v1/money.proto").unwrap();
    file.message_type[0].field[1].number = Some(9);
    let out = breaking("broken", &set.encode_to_vec(), &path("baseline.binpb"));
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(said.contains("daybook/v1/money.proto") && said.contains("\"units\""), "{said}");
}
