use crate::{command::Fan, resp::Proto};
pub fn merge(_fan: Fan, _proto: Proto, _replies: &[&[u8]], _count: Option<i64>, _out: &mut Vec<u8>) {}
