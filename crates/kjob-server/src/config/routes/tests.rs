//! Tables of routes, and what is wrong with them.

use std::time::Duration;

use kjob_core::engine::Interrupted;

use super::super::Keys;
use super::*;

fn read(text: &str) -> Result<Vec<Route>, String> {
    let keys = Keys::from_toml(text, "kjob.toml".as_ref()).map_err(|error| error.to_string())?;
    Ok(keys.routes.into_iter().map(|given| given.route).collect())
}

fn refusal(text: &str) -> String {
    read(text).map(drop).unwrap_err()
}

#[test]
fn the_two_kinds_are_read() {
    let routes = read(
        r#"
        workers = 2
        [[route]]
        endpoint = "/report/*"
        kind = "http"
        upstream = "http://127.0.0.1:8080"
        wire = "plain"
        timeout = "10m"
        concurrency = 16
        on_interrupt = "retry"
        headers = { "x-a" = "b" }
        progress_header = "X-Progress"
        progress_url = "http://10.0.0.7:9191"
        forward_headers = ["X-Request-Id"]
        [[route]]
        endpoint = "/tools/wc"
        kind = "command"
        command = ["wc", "-c"]
        cpu_seconds = 10
        address_space = "1GiB"
        env = { A = "b" }
        "#,
    )
    .unwrap();
    let [report, wc] = routes.as_slice() else {
        panic!("{routes:?}");
    };
    assert_eq!(report.endpoint, "/report/*");
    assert_eq!(report.options.timeout, Some(Duration::from_secs(600)));
    assert_eq!(report.options.concurrency, Some(16));
    let retry = Interrupted::Retry { max_attempts: 3 };
    assert_eq!(report.options.on_interrupt, retry);
    let RouteKind::Http(http) = &report.kind else {
        panic!("{report:?}");
    };
    assert_eq!(http.upstreams, ["http://127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(http.wire, Wire::Plain);
    assert_eq!(http.headers["x-a"], "b");
    assert_eq!(http.forward_headers, ["x-request-id"]);
    assert_eq!(http.progress_header.as_ref().unwrap(), "x-progress");
    let url = http.progress_url.as_deref();
    assert_eq!(url, Some("http://10.0.0.7:9191"));
    let RouteKind::Command(wc) = &wc.kind else {
        panic!("{wc:?}");
    };
    assert_eq!(wc.command, ["wc", "-c"]);
    assert_eq!(wc.limits.cpu_seconds, Some(10));
    assert_eq!(wc.limits.address_space, Some(1 << 30));
    assert_eq!(wc.env, [("A".to_owned(), "b".to_owned())]);
}

#[test]
fn mistakes_are_named_with_their_line() {
    const HTTP: &str = "[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = 'http://h'\n";
    const COMMAND: &str = "[[route]]\nendpoint = '/x'\nkind = 'command'\ncommand = ['wc']\n";
    for (text, told) in [
        (
            "[[route]]\nendpiont = '/x'".to_owned(),
            "kjob.toml:2: unknown key \"endpiont\"; did you mean \"endpoint\"? allowed are endpoint, kind, ",
        ),
        (
            "route = 7".to_owned(),
            "kjob.toml:1: route: \"a TOML integer\" is not [[route]] tables",
        ),
        (
            "\n[[route]]\nkind = 'http'".to_owned(),
            "kjob.toml:2: the route has no endpoint",
        ),
        (
            "[[route]]\nendpoint = '/x'".to_owned(),
            "kjob.toml:1: the route has no kind",
        ),
        (
            "[[route]]\nendpoint = '/x'\nkind = 'http'".to_owned(),
            "kjob.toml:1: the route has no upstream",
        ),
        (
            "[[route]]\nendpoint = '/x'\nkind = 'grpc'".to_owned(),
            "kjob.toml:3: kind: \"grpc\" is not one of http, command",
        ),
        (
            "[[route]]\nendpoint = 'x'\nkind = 'command'\ncommand = ['x']".to_owned(),
            "kjob.toml:2: endpoint pattern \"x\" must begin with /",
        ),
        (
            "[[route]]\nendpoint = '/get/job'\nkind = 'command'\ncommand = ['x']".to_owned(),
            "kjob.toml:2: endpoint \"/get/job\" is the server's own",
        ),
        (
            format!("{HTTP}{HTTP}"),
            "kjob.toml:6: endpoint pattern \"/x\" is routed twice",
        ),
        (
            format!("{HTTP}command = ['wc']"),
            "kjob.toml:5: command is set, and needs kind = \"command\"",
        ),
        (
            format!("{COMMAND}upstream = 'http://h'"),
            "kjob.toml:5: upstream is set, and needs kind = \"http\"",
        ),
        (
            format!("{HTTP}max_attempts = 3"),
            "kjob.toml:5: max_attempts is set, and needs on_interrupt = \"retry\"",
        ),
        (
            format!("{HTTP}timeout = '0s'"),
            "kjob.toml:5: timeout: \"0s\" is not a duration above zero",
        ),
        (
            format!("{HTTP}headers = {{ 'a b' = 'c' }}"),
            "kjob.toml:5: headers: \"a b\" is not the name of a header",
        ),
        (
            format!("{HTTP}headers = {{ Host = 'c' }}"),
            "kjob.toml:5: headers: \"Host\" is not a header that may be set",
        ),
        (
            format!("{HTTP}headers = {{ a = \"b\\nc\" }}"),
            "kjob.toml:5: headers: the value of \"a\" is not one that a header can have",
        ),
        (
            format!("{HTTP}token = '${{KJOB_TEST_NO_SUCH_VARIABLE}}'"),
            "kjob.toml:5: token: \"${KJOB_TEST_NO_SUCH_VARIABLE}\" is not set in the environment",
        ),
        (
            format!("{HTTP}password = 'x'"),
            "kjob.toml:5: password is set, and needs username",
        ),
        (
            format!("{HTTP}progress_url = 'http://h/?x'"),
            "kjob.toml:5: progress_url: \"http://h/?x\" is not a URL of this server, such as ",
        ),
        (
            format!("{HTTP}progress_header = 'a b'"),
            "kjob.toml:5: progress_header: \"a b\" is not the name of a header",
        ),
        (
            format!("{HTTP}cancel_url = 'http://h/'"),
            "kjob.toml:5: cancel_url: \"http://h/\" is not a URL with {job_id} in its path or query",
        ),
        (
            "[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = ['http://a', 'http://b']"
                .to_owned(),
            "kjob.toml:4: upstream (with more than one URL) is set, and needs wire = \"kinetica\"",
        ),
        (
            "[[route]]\nendpoint = '/x'\nkind = 'http'\nupstream = 'h:80'".to_owned(),
            "kjob.toml:4: upstream: \"h:80\" is not a URL such as http://127.0.0.1:8080",
        ),
        (
            "[[route]]\nendpoint = '/x'\nkind = 'command'\ncommand = 'wc -c'".to_owned(),
            "kjob.toml:4: command: \"a TOML string\" is not an array of texts",
        ),
        (
            format!("{COMMAND}env = {{ KJOB_X = 'y' }}"),
            "kjob.toml:5: env: \"KJOB_X\" is not the name of a variable",
        ),
        (
            format!("{COMMAND}open_files = 0"),
            "kjob.toml:5: open_files: \"0\" is not a number",
        ),
    ] {
        let error = refusal(&text);
        assert!(error.starts_with(told), "{error}\nis not\n{told}");
    }
}

#[test]
fn what_is_printed_is_read_as_the_same_and_has_no_secrets() {
    let text = "[[route]]\nendpoint = '/x'  # a comment\nkind = \"http\"\nupstream = [ # more\n 'http://a', 'http://b' ]\nwire = 'kinetica'\nusername = 'ann'\npassword = 'hush'\n[route.headers]\nx-key = 'hush'\nx-path = '${PATH}'\n";
    let keys = Keys::from_toml(text, "kjob.toml".as_ref()).unwrap();
    let listing = &keys.routes[0].listing;
    assert!(
        !listing.contains("hush") && !listing.contains("ann"),
        "{listing}"
    );
    assert!(listing.contains("\"x-path\" = \"${PATH}\""), "{listing}");
    let again = read(listing).unwrap();
    let RouteKind::Http(again) = &again[0].kind else {
        panic!("{again:?}");
    };
    assert_eq!(again.upstreams.len(), 2);
    assert!(!again.headers["x-path"].is_empty());
    let shown = format!("{:?}", keys.routes[0].route);
    assert!(!shown.contains("hush"), "{shown}");
}
