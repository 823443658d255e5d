//! `GET /openapi.json`: the description of ordinary HTTP, for tools.

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};

use crate::reply::{self, ReplyBody};

/// Kept by hand; a test holds it against the paths and methods that there are.
const DOCUMENT: &str = include_str!("../../openapi.json");

pub(super) fn answer() -> Response<ReplyBody> {
    let json = HeaderValue::from_static("application/json");
    let mut response = reply::bytes(StatusCode::OK, json, DOCUMENT);
    let keep = HeaderValue::from_static("private, no-cache");
    response.headers_mut().insert(CACHE_CONTROL, keep);
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::job_options;
    use crate::ordinary::Resource;
    use crate::refusal::Kind;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// The names of an object's members.
    fn names(value: &Value) -> BTreeSet<&str> {
        value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect()
    }

    #[test]
    fn it_has_the_paths_and_methods_that_there_are() {
        let document = document();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in names(item) {
                if method != "parameters" {
                    described.insert(format!("{} {path}", method.to_ascii_uppercase()));
                }
            }
        }
        let mut there = BTreeSet::new();
        for path in [
            "/jobs",
            "/jobs/7",
            "/jobs/7/result",
            "/jobs/7/events",
            "/jobs/7/progress",
            "/jobs/7/payload",
            "/jobs/7/log",
            "/jobs/events",
            "/console/me",
            "/console/history",
            "/openapi.json",
        ] {
            let resource = Resource::at(path).unwrap();
            // HEAD goes without saying where there is GET.
            let methods = resource
                .methods()
                .split(", ")
                .filter(|method| *method != "HEAD");
            there.extend(methods.map(|method| format!("{method} {}", resource.template())));
        }
        assert_eq!(described, there);
    }

    #[test]
    fn it_has_the_members_and_parameters_that_there_are() {
        let document = document();
        let request = &document["components"]["schemas"]["JobRequest"];
        let members: BTreeSet<&str> = crate::ordinary::submit::CALL_MEMBERS
            .into_iter()
            .chain(job_options::NAMES.iter().copied())
            .collect();
        assert_eq!(names(&request["properties"]), members);
        for (name, schema) in request["properties"].as_object().unwrap() {
            let name = name.as_str();
            assert_eq!(
                schema["type"] == "integer",
                job_options::NUMBERS.contains(&name),
                "{name}"
            );
            assert_eq!(
                schema["type"] == "boolean",
                job_options::FLAGS.contains(&name),
                "{name}"
            );
        }
        let parameters = document["paths"]["/jobs"]["get"]["parameters"]
            .as_array()
            .unwrap();
        let parameters: BTreeSet<_> = parameters
            .iter()
            .filter_map(|it| it["name"].as_str())
            .collect();
        assert_eq!(parameters, BTreeSet::from(crate::ordinary::list::NAMES));
    }

    /// Whatever an operation may refuse with is among its responses, and nothing else is.
    #[test]
    fn it_has_the_statuses_of_the_refusals() {
        let document = document();
        let mut described = BTreeSet::new();
        let items = document["paths"].as_object().unwrap().values();
        let routed = &document["components"]["pathItems"]["RoutedEndpoint"];
        for item in items.chain([routed]) {
            for operation in item.as_object().unwrap().values() {
                if let Some(responses) = operation.get("responses") {
                    described.extend(names(responses).into_iter().map(str::to_owned));
                }
            }
        }
        let statuses = Kind::ALL.iter().map(|kind| kind.http.as_u16());
        // Nothing is at a path that is not described, and 405 is for methods that are not.
        let mut there: BTreeSet<String> = statuses.map(|status| status.to_string()).collect();
        there.remove("405");
        there.extend(["200", "202", "204", "206", "304"].map(str::to_owned));
        assert_eq!(described, there);
    }

    #[test]
    fn its_version_is_ours() {
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn its_references_lead_somewhere() {
        fn check(root: &Value, value: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(reference)) = members.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(root.pointer(pointer).is_some(), "{reference}");
                    }
                    members.values().for_each(|member| check(root, member));
                }
                Value::Array(items) => items.iter().for_each(|item| check(root, item)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
    }
}
