//! Compiles the contract in `proto/` with `daybook-codegen`.

use std::path::PathBuf;

fn main() {
    // The whole directory: a new file of a new domain must be seen as well.
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    if let Err(error) = daybook_codegen::compile("proto".as_ref(), &out) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
