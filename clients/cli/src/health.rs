//! `daybook health`: one HTTP request, for health checks of containers whose image has no curl.
//! It is *not* an HTTP client: HTTP/1.1, GET, and the status line of the answer, no more.

use std::time::Duration;

use clap::Args;
use http::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exit::Exit;
use crate::output;
use crate::problem::Problem;

/// The most of an answer that is read; health is told in less.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// `daybook health`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  daybook health\n  \
                        daybook health --url http://127.0.0.1:8088/healthz\n\n\
                        Exits with 0 when the answer is 200, else with 1.")]
pub struct HealthArgs {
    /// What to ask: /readyz says whether it can serve, /healthz whether it lives
    #[arg(
        long,
        value_name = "URL",
        env = "DAYBOOK_HEALTH_URL",
        default_value = "http://127.0.0.1:8088/readyz"
    )]
    url: String,
    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = crate::time::parse_duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: HealthArgs) -> Result<(), Problem> {
    let answer = get(&args.url, args.timeout).await.map_err(|problem| {
        Problem::new(Exit::Unexpected, format!("{} gives no answer", args.url))
            .why(problem)
            .next("daybook doctor")
    })?;
    if answer.status != 200 {
        return Err(Problem::new(Exit::Unexpected, format!("{} is not well", args.url))
            .why(format!("HTTP status {}: {}", answer.status, answer.body.trim()))
            .next("daybook doctor"));
    }
    output::line(answer.body.trim_end())?;
    Ok(())
}

/// An answer over HTTP.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub status: u16,
    pub body: String,
}

/// Asks and reads the whole answer. The error says what went wrong.
pub(crate) async fn get(url: &str, deadline: Duration) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url} is not a URL: {error}"))?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// is supported".to_owned());
    }
    let host = uri.host().ok_or("the URL has no host")?;
    let port = uri.port_u16().unwrap_or(80);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    let exchange = async {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = match timeout(deadline, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {deadline:?}")),
    };
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| "the answer is not HTTP".to_owned())
}

/// Takes the status and the body out of an answer; the body as it was sent, which is whole
/// because the connection was closed after it.
fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    Some(Answer { status: words.next()?.parse().ok()?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn status_and_body_are_read() {
        let url = answering("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nstarting\n").await;
        let answer = get(&url, Duration::from_secs(5)).await.unwrap();
        assert_eq!(answer, Answer { status: 503, body: "starting\n".into() });
    }

    #[tokio::test]
    async fn what_is_not_http_is_named() {
        let url = answering("SSH-2.0-OpenSSH_9.6\r\n").await;
        let problem = get(&url, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(problem, "the answer is not HTTP");
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let problem = get(&url, Duration::from_secs(5)).await.unwrap_err();
        assert!(problem.contains("refused"), "{problem}");
        assert!(get("https://localhost/", Duration::from_secs(5)).await.is_err());
    }
}
