//! Payloads with schemas that are known only at run time, held against apache-avro.

use ::apache_avro::reader::datum::GenericDatumReader;
use ::apache_avro::types::Value;
use ::apache_avro::writer::datum::GenericDatumWriter;
use kjob_proto::DecodeErrorKind::*;
use kjob_proto::dynamic::Schema;
use kjob_proto::*;
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;

const ALL_TYPES: &str = r#"{"type":"record","name":"all","namespace":"demo","fields":[
    {"name":"none","type":"null"},
    {"name":"flag","type":"boolean"},
    {"name":"int","type":"int"},
    {"name":"long","type":"long"},
    {"name":"float","type":"float"},
    {"name":"double","type":"double"},
    {"name":"bytes","type":"bytes"},
    {"name":"string","type":"string"},
    {"name":"fixed","type":{"type":"fixed","name":"three","size":3}},
    {"name":"enum","type":{"type":"enum","name":"suit","symbols":["HEARTS","SPADES"]}},
    {"name":"array","type":{"type":"array","items":"long"}},
    {"name":"map","type":{"type":"map","values":"int"}},
    {"name":"union","type":["null","string","long",{"type":"map","values":"bytes"},"three"]},
    {"name":"next","type":["null","all"]}
]}"#;

fn schema(text: &str) -> Schema {
    Schema::parse(text).unwrap()
}

fn limits() -> Limits {
    Limits::default()
}

fn union_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Union(0, Box::new(Value::Null))),
        any::<String>().prop_map(|text| Value::Union(1, Box::new(Value::String(text)))),
        any::<i64>().prop_map(|long| Value::Union(2, Box::new(Value::Long(long)))),
        hash_map(
            any::<String>(),
            vec(any::<u8>(), 0..4).prop_map(Value::Bytes),
            0..3
        )
        .prop_map(|map| Value::Union(3, Box::new(Value::Map(map)))),
        any::<[u8; 3]>().prop_map(|bytes| Value::Union(4, Box::new(Value::Fixed(3, bytes.into())))),
    ]
}

fn all_types() -> impl Strategy<Value = Value> {
    let scalars = (
        any::<bool>(),
        any::<i32>(),
        any::<i64>(),
        any::<f32>(),
        any::<f64>(),
        vec(any::<u8>(), 0..9),
        any::<String>(),
        any::<[u8; 3]>(),
        0..2_u32,
    );
    let others = (
        vec(any::<i64>(), 0..4),
        hash_map(any::<String>(), any::<i32>().prop_map(Value::Int), 0..4),
        union_value(),
    );
    let one = (scalars, others).prop_map(|(scalars, (array, map, union))| {
        let (flag, int, long, float, double, bytes, string, fixed, symbol) = scalars;
        let symbol_name = ["HEARTS", "SPADES"][symbol as usize].to_owned();
        vec![
            ("none", Value::Null),
            ("flag", Value::Boolean(flag)),
            ("int", Value::Int(int)),
            ("long", Value::Long(long)),
            ("float", Value::Float(float)),
            ("double", Value::Double(double)),
            ("bytes", Value::Bytes(bytes)),
            ("string", Value::String(string)),
            ("fixed", Value::Fixed(3, fixed.into())),
            ("enum", Value::Enum(symbol, symbol_name)),
            (
                "array",
                Value::Array(array.into_iter().map(Value::Long).collect()),
            ),
            ("map", Value::Map(map)),
            ("union", union),
        ]
    });
    // A list of up to four, each holding the next.
    vec(one, 1..4).prop_map(|list| {
        let mut next = Value::Union(0, Box::new(Value::Null));
        for mut fields in list {
            fields.push(("next", next));
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value));
            next = Value::Union(1, Box::new(Value::Record(fields.collect())));
        }
        match next {
            Value::Union(_, first) => *first,
            _ => unreachable!("the list is not empty"),
        }
    })
}

proptest! {
    /// apache-avro's binary becomes JSON, the JSON becomes binary, and apache-avro finds its value in that.
    #[test]
    fn all_types_there_and_back(value in all_types()) {
        let theirs = ::apache_avro::Schema::parse_str(ALL_TYPES).unwrap();
        let ours = schema(ALL_TYPES);
        let writer = GenericDatumWriter::builder(&theirs).build().unwrap();
        let binary = writer.write_value_to_vec(value.clone()).unwrap();
        ours.check_binary(&binary, &limits()).unwrap();
        let json = ours.binary_to_json(&binary, &limits()).unwrap();
        ours.check_json(&json, &limits()).unwrap();
        let again = ours.json_to_binary(&json, &limits()).unwrap();
        // Maps keep their order, so not a bit changes.
        prop_assert_eq!(&again, &binary);
        let reader = GenericDatumReader::builder(&theirs).build().unwrap();
        prop_assert_eq!(reader.read_value(&mut &again[..]).unwrap(), value);
    }

    #[test]
    fn arbitrary_bytes_and_texts_are_refused_in_order(bytes in vec(prop_oneof![0..8_u8, any::<u8>()], 0..200)) {
        let schema = schema(ALL_TYPES);
        let checked = schema.check_binary(&bytes, &limits());
        let json = schema.binary_to_json(&bytes, &limits());
        prop_assert_eq!(checked.is_ok(), json.is_ok());
        if let Ok(text) = json {
            prop_assert!(schema.check_json(&text, &limits()).is_ok());
        }
        _ = schema.check_json(&String::from_utf8_lossy(&bytes), &limits());
    }
}

/// The records of the protocol are schemas like any other, so both codecs must agree.
#[test]
fn agrees_with_the_records() {
    let request = CreateJobRequest {
        endpoint: "/a".into(),
        data: vec![0, 0x7f, 0xff].into(),
        data_str: "é".into(),
        options: StringMap::from_iter([("z", "1"), ("a", "2")]),
        ..Default::default()
    };
    let schema = schema(CreateJobRequest::SCHEMA);
    let (binary, json) = (
        request.encode_to_bytes(),
        String::from_utf8(request.encode_json()).unwrap(),
    );
    assert_eq!(schema.binary_to_json(&binary, &limits()).unwrap(), json);
    assert_eq!(schema.json_to_binary(&json, &limits()).unwrap(), binary);
}

#[test]
fn members_in_any_order_missing_or_unknown() {
    let schema = schema(
        r#"{"type":"record","name":"r","fields":[
            {"name":"a","type":"long"},
            {"name":"b","type":"string","default":"none"},
            {"name":"c","type":{"type":"array","items":"long"}},
            {"name":"d","type":["long","null"],"default":7},
            {"name":"e","type":["null","string"],"default":null},
            {"name":"f","type":{"type":"record","name":"inner","fields":[
                {"name":"x","type":"int","default":3}, {"name":"y","type":"bytes","default":"\u00ff"}
            ]},"default":{"y":"a"}}
        ]}"#,
    );
    let defaults = r#"{"a":1,"b":"none","c":[],"d":{"long":7},"e":null,"f":{"x":3,"y":"a"}}"#;
    let read_back = |json| {
        let binary = schema.json_to_binary(json, &limits()).unwrap();
        schema.binary_to_json(&binary, &limits()).unwrap()
    };
    assert_eq!(read_back(r#"{"a":1}"#), defaults);
    assert_eq!(read_back(defaults), defaults);
    assert_eq!(
        read_back(
            r#"{"f":{"y":"b","zz":[{}]},"c":[1,2],"?":{},"b":"x","a":2,"a":3,"d":null,"e":{"string":"s"}}"#
        ),
        r#"{"a":3,"b":"x","c":[1,2],"d":null,"e":{"string":"s"},"f":{"x":3,"y":"b"}}"#
    );
    let error = schema.check_json(r#"{"b":"x"}"#, &limits()).unwrap_err();
    assert_eq!(error.kind, Schema("member a is missing".into()));
}

#[test]
fn errors_name_the_path() {
    let schema = schema(ALL_TYPES);
    let (start, end) = (
        r#"{"none":null,"flag":true,"next":{"demo.all":{"none":null,"flag":1"#,
        "}}}",
    );
    let error = schema
        .check_json(&format!("{start}{end}"), &limits())
        .unwrap_err();
    let kind = JsonType {
        expected: "true or false",
        found: "the number 1".into(),
    };
    assert_eq!(
        error.kind,
        InField {
            name: "next.flag".into(),
            kind: Box::new(kind)
        }
    );
    let error = schema.check_binary(&[2], &limits()).unwrap_err();
    let kind = BadBoolean { found: 2 };
    assert_eq!(
        error.kind,
        InField {
            name: "flag".into(),
            kind: Box::new(kind)
        }
    );
}

#[test]
fn unions_are_tagged_and_floats_are_whole_numbers_too() {
    let schema =
        schema(r#"["null","string",{"type":"enum","name":"n.e","symbols":["A"]},"double"]"#);
    for (json, binary) in [
        ("null", &[0][..]),
        (r#"{"string":"A"}"#, &[2, 2, b'A']),
        (r#"{"n.e":"A"}"#, &[4, 0]),
        (r#"{"double":1.0}"#, &[6, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
        (
            r#"{"double":"-Infinity"}"#,
            &[6, 0, 0, 0, 0, 0, 0, 0xf0, 0xff],
        ),
    ] {
        assert_eq!(
            schema.json_to_binary(json, &limits()).unwrap(),
            binary,
            "{json}"
        );
        assert_eq!(schema.binary_to_json(binary, &limits()).unwrap(), json);
    }
    assert_eq!(
        schema.json_to_binary(r#"{"double":1}"#, &limits()).unwrap()[1..],
        1_f64.to_le_bytes()
    );
    for json in [
        r#""A""#,
        "{}",
        r#"{"string":"a","double":1}"#,
        r#"{"long":1}"#,
        r#"{"n.e":"B"}"#,
        "[]",
    ] {
        assert!(schema.check_json(json, &limits()).is_err(), "{json}");
    }
    for binary in [&[8][..], &[1], &[4, 2], &[4, 1], &[0, 0], &[]] {
        assert!(
            schema.check_binary(binary, &limits()).is_err(),
            "{binary:?}"
        );
    }
}

#[test]
fn what_apache_avro_takes_and_we_do_not() {
    let refused = |schema_text: &str, binary: &[u8]| {
        schema(schema_text)
            .check_binary(binary, &limits())
            .unwrap_err()
            .kind
    };
    // It gives null for these two, and loses a bit of the third.
    assert_eq!(
        refused(r#""string""#, &[8, b'a']),
        UnexpectedEnd {
            found: 1,
            needed: 4
        }
    );
    assert_eq!(
        refused(r#""boolean""#, &[]),
        UnexpectedEnd {
            found: 0,
            needed: 1
        }
    );
    let long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
    assert_eq!(refused(r#""long""#, &long), BadVarint);
    assert_eq!(refused(r#""long""#, &[2, 0]), TrailingBytes { found: 1 });
}

/// A length of gigabytes, and counts of things that take no byte, are refused and cost no memory.
#[test]
fn bombs() {
    let check = |schema_text: &str, binary: &[u8]| {
        let schema = schema(schema_text);
        let mut refused = None;
        let info = allocation_counter::measure(|| {
            refused = Some(schema.check_binary(binary, &limits()));
        });
        assert!(info.bytes_total < 1000, "{schema_text}: {info:?}");
        refused.unwrap()
    };
    let huge = [0xfe, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    for text in [
        r#""bytes""#,
        r#""string""#,
        r#"{"type":"array","items":"null"}"#,
        r#"{"type":"array","items":"long"}"#,
        r#"{"type":"map","values":"null"}"#,
        r#"{"type":"array","items":{"type":"array","items":"null"}}"#,
        r#"{"type":"array","items":{"type":"record","name":"r","fields":[]}}"#,
    ] {
        assert!(check(text, &huge).is_err(), "{text}");
    }
    // 60 000 nulls are as many as are allowed; twice that, in two arrays, are too many.
    let nulls = r#"{"type":"array","items":{"type":"array","items":"null"}}"#;
    let inner = [0xc0, 0xa9, 0x07, 0x00];
    assert_eq!(check(nulls, &[&[2][..], &inner, &[0]].concat()), Ok(()));
    let twice = [&[4][..], &inner, &inner, &[0]].concat();
    let limit = limits().max_map_entries + twice.len();
    let error = check(nulls, &twice).unwrap_err();
    assert_eq!(
        error.kind,
        TooManyEntries {
            found: 2 + 2 * 60_000,
            limit
        }
    );
    // A type that holds itself without end.
    let endless = r#"{"type":"record","name":"r","fields":[{"name":"r","type":"r"}]}"#;
    let error = schema(endless).check_binary(&[], &limits()).unwrap_err();
    assert!(
        error.to_string().contains("nested deeper than 32 levels"),
        "{error}"
    );
}

/// Nulls take no byte: JSON may have as many of them as the binary form is read with, and not one more.
#[test]
fn as_many_nulls_are_written_as_are_read() {
    let schema = schema(r#"{"type":"array","items":"null"}"#);
    let json = |count: usize| format!("[{}]", vec!["null"; count].join(","));
    // The count in three bytes, and the end.
    let most = limits().max_map_entries + 4;
    let binary = schema.json_to_binary(&json(most), &limits()).unwrap();
    assert_eq!(schema.check_binary(&binary, &limits()), Ok(()));
    let error = schema.json_to_binary(&json(most + 1), &limits());
    let (found, limit) = (most as u64 + 1, most);
    assert_eq!(error.unwrap_err().kind, TooManyEntries { found, limit });
}

/// Each limit that applies here, at the limit and one past it.
#[test]
fn limits_at_and_past() {
    let schema = schema(r#"{"type":"array","items":{"type":"array","items":"bytes"}}"#);
    let (binary, json) = ([2, 2, 2, 0xff, 0, 0], r#"[["\u00ff"]]"#);
    for (at, past) in [
        (limits().with_max_body(12), limits().with_max_body(11)),
        (limits().with_max_depth(2), limits().with_max_depth(1)),
    ] {
        assert_eq!(schema.json_to_binary(json, &at).unwrap(), binary);
        assert!(schema.json_to_binary(json, &past).is_err(), "{past:?}");
    }
    assert!(
        schema
            .binary_to_json(&binary, &limits().with_max_body(6))
            .is_ok()
    );
    let error = schema
        .binary_to_json(&binary, &limits().with_max_body(5))
        .unwrap_err();
    assert_eq!(error.kind, TooLong { found: 6, limit: 5 });
    assert!(
        schema
            .binary_to_json(&binary, &limits().with_max_depth(2))
            .is_ok()
    );
    let error = schema
        .binary_to_json(&binary, &limits().with_max_depth(1))
        .unwrap_err();
    assert_eq!(error.kind, TooDeep { limit: 1 });
    let text = limits().with_max_decompressed(json.len());
    assert_eq!(schema.binary_to_json(&binary, &text).unwrap(), json);
    let text = limits().with_max_decompressed(json.len() - 1);
    let error = schema.binary_to_json(&binary, &text).unwrap_err();
    assert_eq!(
        error.kind,
        TooLong {
            found: json.len() as u64,
            limit: json.len() - 1
        }
    );
    let made = limits().with_max_decompressed(binary.len());
    assert_eq!(schema.json_to_binary(json, &made).unwrap(), binary);
    let made = limits().with_max_decompressed(binary.len() - 1);
    let error = schema.json_to_binary(json, &made).unwrap_err();
    assert_eq!(error.kind, TooLong { found: 6, limit: 5 });
}

#[test]
fn schemas_that_are_none() {
    for text in [
        "",
        "{}",
        "\"nothing\"",
        r#"{"type":"record","name":"r","fields":[{"name":"a","type":"b"}]}"#,
    ] {
        assert!(Schema::parse(text).is_err(), "{text}");
    }
}

#[test]
fn logical_types_are_what_carries_them() {
    for (logical, carrier) in [
        (r#"{"type":"int","logicalType":"date"}"#, r#""int""#),
        (
            r#"{"type":"long","logicalType":"timestamp-millis"}"#,
            r#""long""#,
        ),
    ] {
        let (logical, carrier) = (schema(logical), schema(carrier));
        assert_eq!(
            logical.json_to_binary("20000", &limits()),
            carrier.json_to_binary("20000", &limits())
        );
    }
    let decimal = schema(r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#);
    assert_eq!(
        decimal.binary_to_json(&[2, 0x41], &limits()).unwrap(),
        "\"A\""
    );
    let uuid = schema(r#"{"type":"string","logicalType":"uuid"}"#);
    assert_eq!(uuid.binary_to_json(&[2, b'u'], &limits()).unwrap(), "\"u\"");
}
