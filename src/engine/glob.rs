pub fn glob_match(_pattern: &[u8], _text: &[u8]) -> bool { true }
