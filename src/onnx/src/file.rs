//! Model files: mapping and decoding them, reading tensors wherever their data is, writing.

mod external;
mod read;
mod tensor;
mod write;

pub use external::Resolver;
pub use read::{LoadedModel, decode, map, read};
pub use tensor::{element_count, element_type, tensor_bytes, tensor_strings};
pub use write::{ExternalWriter, write_atomic};
