//! Any text is a configuration or a list of mistakes, and what is shown of a configuration is one.
#![no_main]

use keyway::config::{FileText, Inputs, resolve};
use libfuzzer_sys::fuzz_target;

// A file, and behind a NUL lines for `--set`.
fuzz_target!(|input: &str| {
    let (file, set) = input.split_once('\0').unwrap_or((input, ""));
    let inputs = |text: &str, set: &str| Inputs {
        file: Some(FileText { name: "keyway.toml".into(), text: Ok(text.into()) }),
        environment: Vec::new(),
        set: set.lines().map(str::to_owned).collect(),
    };
    match resolve(&inputs(file, set)) {
        Ok(resolved) => {
            let shown = resolved.show();
            let again = resolve(&inputs(&shown, "")).unwrap_or_else(|mistakes| panic!("{mistakes}\nin what is shown:\n{shown}"));
            assert_eq!(again.show().matches('\n').count(), shown.matches('\n').count());
        }
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty());
            mistakes.0.iter().for_each(|mistake| assert!(!mistake.to_string().is_empty()));
        }
    }
});
