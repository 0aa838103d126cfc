//! Mistakes in a contract: each says where it is, what is wrong and how to mend it.

use std::fmt;

use prost_reflect::{FieldDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor};
use prost_types::source_code_info::Location;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file and line, such as `bank/v1/account.proto:12`.
    pub place: String,
    /// The full name of the element, such as `bank.v1.MoneyDeposited`.
    pub element: String,
    /// What is wrong, and after a semicolon the mend.
    pub problem: String,
}

/// All mistakes of a contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the contract has {} mistake(s):", self.0.len())?;
        for Mistake { place, element, problem } in &self.0 {
            writeln!(f, "{place}: {element}: {problem}")?;
        }
        Ok(())
    }
}

impl Mistakes {
    /// Adds a mistake of an element.
    pub(crate) fn add(&mut self, element: &impl Element, problem: impl Into<String>) {
        let file = element.file();
        let line = location(&file, element.path())
            .and_then(|location| location.span.first())
            .map_or_else(String::new, |line| format!(":{}", line + 1));
        self.0.push(Mistake {
            place: format!("{}{line}", file.name()),
            element: element.full_name().to_owned(),
            problem: problem.into(),
        });
    }
}

/// An element of a contract that a person can be pointed to.
pub(crate) trait Element {
    /// Its name with its package.
    fn full_name(&self) -> &str;
    /// The file that it is declared in.
    fn file(&self) -> FileDescriptor;
    /// Its path in that file.
    fn path(&self) -> &[i32];

    /// The comment before it; empty when there is none.
    fn comment(&self) -> String {
        location(&self.file(), self.path())
            .map_or_else(String::new, |location| location.leading_comments().trim_end().to_owned())
    }
}

fn location<'a>(file: &'a FileDescriptor, path: &[i32]) -> Option<&'a Location> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    info.location.iter().find(|location| location.path == path)
}

macro_rules! element {
    ($($descriptor:ty),*) => {$(
        impl Element for $descriptor {
            fn full_name(&self) -> &str {
                self.full_name()
            }

            fn file(&self) -> FileDescriptor {
                self.parent_file()
            }

            fn path(&self) -> &[i32] {
                self.path()
            }
        }
    )*};
}

element!(FieldDescriptor, MessageDescriptor, MethodDescriptor);

impl Element for FileDescriptor {
    fn full_name(&self) -> &str {
        self.name()
    }

    fn file(&self) -> FileDescriptor {
        self.clone()
    }

    fn path(&self) -> &[i32] {
        // The path of the `package` in a FileDescriptorProto; there is none, so this gives no line.
        &[2]
    }
}
