//! apache-avro, another implementation, reads what we write and writes what we read.

use crate::support::strategies::Any;
use ::apache_avro::Schema;
use ::apache_avro::reader::datum::GenericDatumReader;
use ::apache_avro::types::Value;
use ::apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use kjob_proto::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

/// A record as apache-avro's tree.
trait ToAvro: Any {
    fn to_avro(&self) -> Value;
}

fn text(value: &Text) -> Value {
    Value::String(value.as_str().to_owned())
}

fn bytes(value: &Bytes) -> Value {
    Value::Bytes(value.to_vec())
}

fn map(value: &StringMap) -> Value {
    Value::Map(
        value
            .iter()
            .map(|(key, value)| (key.as_str().to_owned(), text(value)))
            .collect(),
    )
}

fn long(value: &i64) -> Value {
    Value::Long(*value)
}

fn int(value: &i32) -> Value {
    Value::Int(*value)
}

fn boolean(value: &bool) -> Value {
    Value::Boolean(*value)
}

fn longs(value: &[i64]) -> Value {
    Value::Array(value.iter().map(long).collect())
}

fn texts(value: &[Text]) -> Value {
    Value::Array(value.iter().map(text).collect())
}

macro_rules! to_avro {
    ($($record:ident { $($field:ident: $convert:ident,)* })*) => {$(
        impl ToAvro for $record {
            fn to_avro(&self) -> Value {
                Value::Record(vec![$((stringify!($field).to_owned(), $convert(&self.$field)),)*])
            }
        }
    )*};
}

to_avro! {
    CreateJobRequest {
        endpoint: text, request_encoding: text, data: bytes, data_str: text, options: map,
    }
    CreateJobResponse { job_id: long, info: map, }
    GetJobRequest { job_id: long, options: map, }
    GetJobResponse {
        endpoint: text, job_status: text, running: boolean, progress: int, successful: boolean,
        response_encoding: text, job_response: bytes, job_response_str: text, status_map: map,
        info: map,
    }
    AdminShowJobsRequest { options: map, }
    AdminShowJobsResponse {
        job_id: longs, status: texts, endpoint_name: texts, time_received: longs, auth_id: texts,
        source_ip: texts, query_text: texts, user_data: texts, flags: texts, info: map,
    }
    AdminAlterJobsRequest { job_ids: longs, action: text, options: map, }
    AdminAlterJobsResponse { job_ids: longs, action: text, status: texts, info: map, }
    ShowSystemStatusRequest { options: map, }
    ShowSystemStatusResponse { status_map: map, info: map, }
    ShowSystemPropertiesRequest { options: map, }
    ShowSystemPropertiesResponse { property_map: map, info: map, }
    Envelope { status: text, message: text, data_type: text, data: bytes, data_str: text, }
}

mod both_ways {
    use super::*;

    crate::for_each_record!(check);

    fn check<R: ToAvro>(record: &R) -> TestCaseResult {
        let schema = Schema::parse_str(R::SCHEMA).unwrap();
        let ours = record.encode_to_bytes();
        let mut rest = &ours[..];
        let read = GenericDatumReader::builder(&schema)
            .build()
            .unwrap()
            .read_value(&mut rest);
        prop_assert_eq!(read.unwrap(), record.to_avro());
        prop_assert!(rest.is_empty());

        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        let theirs = writer.write_value_to_vec(record.to_avro()).unwrap();
        let read = R::decode_binary(Bytes::from(theirs.clone()), &Limits::default()).unwrap();
        // Its maps have no order, so neither the bytes nor the order of ours can be the same.
        prop_assert_eq!(read.to_avro(), record.to_avro());
        prop_assert_eq!(theirs.len(), ours.len());
        if has_no_long_map(&record.to_avro()) {
            prop_assert_eq!(theirs, ours);
        }
        Ok(())
    }

    fn has_no_long_map(value: &Value) -> bool {
        match value {
            Value::Record(fields) => fields.iter().all(|(_, value)| has_no_long_map(value)),
            Value::Map(map) => map.len() < 2,
            _ => true,
        }
    }
}
