//! Records with anything in them.

use bytes::Bytes;
use kjob_proto::*;
use proptest::collection::vec;
use proptest::prelude::*;

pub fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        4 => any::<String>().prop_map(Text::from),
        1 => "[a-z/_]{0,12}".prop_map(Text::from),
        1 => Just(Text::new()),
    ]
}

/// Also some that are long enough to be segments of their own.
pub fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..64).prop_map(Bytes::from),
        1 => (any::<u8>(), SEGMENT_MIN - 2..SEGMENT_MIN + 300)
            .prop_map(|(byte, len)| Bytes::from(vec![byte; len])),
    ]
}

pub fn payload_text() -> impl Strategy<Value = Text> {
    prop_oneof![
        4 => text(),
        1 => (any::<char>(), 0..SEGMENT_MIN + 300)
            .prop_map(|(char, len)| Text::from(char.to_string().repeat(len))),
    ]
}

pub fn map() -> impl Strategy<Value = StringMap> {
    prop_oneof![
        4 => vec((text(), text()), 0..5).prop_map(StringMap::from_iter),
        1 => vec(("[a-d]{0,2}", text()), 0..40)
            .prop_map(|entries| entries.into_iter().collect()),
    ]
}

/// All sizes of integers alike, not only long ones.
pub fn long() -> impl Strategy<Value = i64> {
    (any::<i64>(), 0..64_u32).prop_map(|(value, shift)| value >> shift)
}

pub fn longs() -> impl Strategy<Value = Vec<i64>> {
    vec(long(), 0..9)
}

pub fn texts() -> impl Strategy<Value = Vec<Text>> {
    vec(text(), 0..9)
}

/// A record that can be generated.
pub trait Any: Record {
    fn any() -> BoxedStrategy<Self>;
}

macro_rules! any_record {
    ($($record:ident { $($field:ident: $strategy:expr,)* })*) => {$(
        impl Any for $record {
            fn any() -> BoxedStrategy<Self> {
                // One at a time, as there are more fields than the largest tuple of strategies.
                let record = Just($record::default()).boxed();
                $(let record = (record, $strategy)
                    .prop_map(|(mut record, $field)| {
                        record.$field = $field;
                        record
                    })
                    .boxed();)*
                record
            }
        }
    )*};
}

any_record! {
    CreateJobRequest {
        endpoint: text(), request_encoding: text(), data: payload(), data_str: payload_text(),
        options: map(),
    }
    CreateJobResponse { job_id: long(), info: map(), }
    GetJobRequest { job_id: long(), options: map(), }
    GetJobResponse {
        endpoint: text(), job_status: text(), running: any::<bool>(), progress: any::<i32>(),
        successful: any::<bool>(), response_encoding: text(), job_response: payload(),
        job_response_str: payload_text(), status_map: map(), info: map(),
    }
    AdminShowJobsRequest { options: map(), }
    AdminShowJobsResponse {
        job_id: longs(), status: texts(), endpoint_name: texts(), time_received: longs(),
        auth_id: texts(), source_ip: texts(), query_text: texts(), user_data: texts(),
        flags: texts(), info: map(),
    }
    AdminAlterJobsRequest { job_ids: longs(), action: text(), options: map(), }
    AdminAlterJobsResponse { job_ids: longs(), action: text(), status: texts(), info: map(), }
    ShowSystemStatusRequest { options: map(), }
    ShowSystemStatusResponse { status_map: map(), info: map(), }
    ShowSystemPropertiesRequest { options: map(), }
    ShowSystemPropertiesResponse { property_map: map(), info: map(), }
    Envelope {
        status: text(), message: text(), data_type: text(), data: payload(),
        data_str: payload_text(),
    }
}

/// A module of tests for each record.
#[macro_export]
macro_rules! for_each_record {
    ($check:ident) => {
        $crate::for_each_record! { $check,
            create_job_request CreateJobRequest, create_job_response CreateJobResponse,
            get_job_request GetJobRequest, get_job_response GetJobResponse,
            admin_show_jobs_request AdminShowJobsRequest,
            admin_show_jobs_response AdminShowJobsResponse,
            admin_alter_jobs_request AdminAlterJobsRequest,
            admin_alter_jobs_response AdminAlterJobsResponse,
            show_system_status_request ShowSystemStatusRequest,
            show_system_status_response ShowSystemStatusResponse,
            show_system_properties_request ShowSystemPropertiesRequest,
            show_system_properties_response ShowSystemPropertiesResponse,
            envelope Envelope
        }
    };
    ($check:ident, $($name:ident $record:ident),*) => {
        proptest::proptest! {$(
            #[test]
            fn $name(record in <kjob_proto::$record as $crate::support::strategies::Any>::any()) {
                $check(&record)?;
            }
        )*}
    };
}
