//! The file that includes all generated code: a module for each segment of a package.

use std::collections::BTreeMap;
use std::path::Path;

use proc_macro2::TokenStream;
use quote::quote;

use crate::names;

#[derive(Default)]
struct Module {
    files: Vec<String>,
    children: BTreeMap<String, Module>,
}

/// The text of the file, for the directory `out`, which the included files are in already.
pub fn include_file(out: &Path, packages: &[String]) -> String {
    let mut root = Module { files: vec!["root.daybook.rs".to_owned()], ..Module::default() };
    for package in packages {
        let mut module = &mut root;
        for segment in package.split('.') {
            module = module.children.entry(segment.to_owned()).or_default();
        }
        // prost writes no file for a package without messages.
        module.files = [format!("{package}.rs"), format!("{package}.daybook.rs")]
            .into_iter()
            .filter(|file| out.join(file).exists())
            .collect();
    }
    crate::pretty(code("", &root))
}

fn code(name: &str, module: &Module) -> TokenStream {
    let files = &module.files;
    let children = module.children.iter().map(|(segment, child)| {
        let name = if name.is_empty() { segment.clone() } else { format!("{name}.{segment}") };
        let (module, code) = (names::snake(segment), code(&name, child));
        let doc = format!(" The package `{name}` of the contract.");
        quote! { #[doc = #doc] pub mod #module { #code } }
    });
    quote! { #(include!(#files);)* #(#children)* }
}
