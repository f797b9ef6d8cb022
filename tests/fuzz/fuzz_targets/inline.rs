//! An inline line is taken apart without a panic, and its words mean the same when they are sent on in any other form.
#![no_main]

use keyway::resp::{Limits, RequestScanner, Scanned, encode, split_inline};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let Ok(words) = split_inline(line) else { return };
    assert_eq!(split_inline(&quoted(&words)), Ok(words.clone()), "quoted");
    if words.is_empty() {
        return;
    }
    let mut frame = Vec::new();
    encode::command(&mut frame, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut spans = Vec::new();
    let scanned = RequestScanner::default().scan(&frame, &mut spans, &Limits::default());
    assert_eq!(scanned, Ok(Scanned::Request { len: frame.len() }));
    let arguments: Vec<&[u8]> = spans.iter().map(|span| span.of(&frame)).collect();
    assert_eq!(arguments, words, "as a multibulk request");
});

/// The same words with every byte escaped.
fn quoted(words: &[Vec<u8>]) -> Vec<u8> {
    let mut line = Vec::new();
    for word in words {
        line.push(b'"');
        word.iter().for_each(|byte| line.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
        line.extend_from_slice(b"\" ");
    }
    line.extend_from_slice(b"\r\n");
    line
}
