//! Compiles the contract in `proto/` with `daybook-codegen`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    daybook_codegen::compile(std::path::Path::new("proto"))
}
