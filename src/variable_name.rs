//! The name of a variable, for messages.

use std::fmt;
use std::sync::Arc;

/// The name under which an operator sets a variable, or would set it. Messages name it as the variable to correct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableName(Arc<str>);

impl From<&str> for VariableName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for VariableName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl VariableName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
