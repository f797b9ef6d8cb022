//! An error line is told from a redirect without a panic, and a redirect means the same when it is written anew.
#![no_main]

use keyway::cluster::{Addr, Redirect, parse_redirect};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let from = Addr::new("10.0.0.1", 7000);
    let Some(redirect) = parse_redirect(line, &from) else { return };
    let kind = match redirect {
        Redirect::Moved { .. } => "MOVED",
        Redirect::Ask { .. } => "ASK",
    };
    let addr = redirect.addr().map_or("?:1", Addr::as_str);
    let anew = format!("{kind} {} {addr}", redirect.slot().get());
    assert_eq!(parse_redirect(anew.as_bytes(), &from), Some(redirect), "{anew}");
});
