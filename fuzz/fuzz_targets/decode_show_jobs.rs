#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| kjob_proto::fuzzing::decode_show_jobs(data));
