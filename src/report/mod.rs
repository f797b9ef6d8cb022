//! What the proxy and the nodes tell in numbers.
//!
//! - `sources` — the facts, gathered from the parts that know them; `health` — what the nodes and the plans' record say
//! - `table` — every metric; `exposition` — its value in Prometheus's format

mod exposition;
mod health;
mod sources;
mod table;

pub use exposition::{exposition, reference};
pub use health::{Health, MasterHealth, View, Watch};
pub use sources::{Facts, Limits, Sources};
