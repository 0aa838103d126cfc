//! Generates Rust from the protobuf contract and its options.

use std::path::Path;

use prost::Message;

/// Compiles every `.proto` file below `root` and writes Rust to `OUT_DIR`.
pub fn compile(root: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let bytes = compiler.encode_file_descriptor_set();
    std::fs::write(out.join("descriptors.bin"), &bytes)?;
    let pool = prost_reflect::DescriptorPool::decode(bytes.as_slice())?;
    let verbatim = pool.get_extension_by_name("daybook.v1.verbatim").expect("options.proto");
    let mut fds = prost_types::FileDescriptorSet::decode(bytes.as_slice())?;
    for file in &mut fds.file {
        for message in &mut file.message_type {
            let full = format!("{}.{}", file.package.as_deref().unwrap_or(""), message.name());
            let desc = pool.get_message_by_name(&full).expect("same descriptors");
            for field in &mut message.field {
                let d = desc.get_field(field.number() as u32).expect("same descriptors");
                if d.options().get_extension(&verbatim).as_bool() == Some(true) {
                    field.r#type = Some(prost_types::field_descriptor_proto::Type::Bytes.into());
                    field.type_name = None;
                }
            }
        }
    }
    tonic_prost_build::configure().bytes(".").include_file("contract.rs").compile_fds(fds)?;
    println!("cargo:rerun-if-changed={}", root.display());
    Ok(())
}

fn collect(dir: &Path, into: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            into.push(path);
        }
    }
    Ok(())
}
