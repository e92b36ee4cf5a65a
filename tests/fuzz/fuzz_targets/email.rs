#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| profilestore_fuzz::target("email")(data));
