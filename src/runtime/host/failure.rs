//! Engine errors as failures of a step.

use crate::engine::EngineError;
use crate::engine::replace::ReplaceError;
use crate::plan::Failure;

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self { reason: error.reason(), message: error.to_string(), hint: Some(error.hint()) }
    }
}

impl From<ReplaceError> for Failure {
    fn from(error: ReplaceError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}
