//! Outgoing calls: HTTP requests and TCP connections, through the proxy of `http_proxy` where one is named.

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::http::response;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest body that an answer may have.
const MAX_BODY: usize = 64 * 1024;

/// A connection that one request after the other can use.
pub(crate) type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

/// Sends one request, with these headers and its own, on a connection of its own and reads the whole answer.
pub(crate) async fn request(
    method: Method,
    url: &str,
    user: &str,
    headers: HeaderMap,
) -> anyhow::Result<Response<Bytes>> {
    let target = Target::parse(url)?;
    target.send(&mut target.open().await?, method, user, headers).await
}

/// Sends a GET on the connection, which is opened when there is none, and reads the whole answer.
pub(crate) async fn get(connection: &mut Option<Sender>, url: &str, user: &str) -> anyhow::Result<response::Parts> {
    let target = Target::parse(url)?;
    let usable = connection.take().filter(|sender| !sender.is_closed());
    let mut sender = match usable {
        Some(sender) => sender,
        None => target.open().await?,
    };
    sender.ready().await?;
    let (head, _) = target.send(&mut sender, Method::GET, user, HeaderMap::new()).await?.into_parts();
    *connection = Some(sender);
    Ok(head)
}

/// Where a request goes.
struct Target {
    authority: Authority,
    /// The address to connect to: the server's, or its proxy's.
    address: String,
    /// The request's target: a path, or the whole URL for a proxy.
    uri: Uri,
}

impl Target {
    fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        let authority = uri.authority().with_context(|| format!("{url} names no host"))?.clone();
        let (address, uri) = match http_proxy() {
            Some(proxy) => (proxy, uri),
            None => {
                let path = uri.path_and_query().map_or("/", |path| path.as_str());
                (format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)), path.parse()?)
            }
        };
        Ok(Self { authority, address, uri })
    }

    async fn open(&self) -> anyhow::Result<Sender> {
        let stream = TcpStream::connect(&self.address).await;
        let stream = stream.with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends when its sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn send(
        &self,
        sender: &mut Sender,
        method: Method,
        user: &str,
        headers: HeaderMap,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(&self.uri)
            .header("host", self.authority.as_str())
            .header("user-agent", format!("{user}/1.0"))
            .body(Empty::new())?;
        request.headers_mut().extend(headers);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// Opens a TCP connection to `host:port`.
pub(crate) async fn connect(target: &str) -> anyhow::Result<TcpStream> {
    let Some(proxy) = http_proxy() else {
        return TcpStream::connect(target).await.with_context(|| format!("cannot connect to {target}"));
    };
    let mut stream = TcpStream::connect(&proxy).await.with_context(|| format!("cannot connect to {proxy}"))?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes()).await?;
    // Byte by byte: what follows the head belongs to the server, which may speak first.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        head.push(stream.read_u8().await.context("the proxy closed the connection")?);
    }
    if !head.starts_with(b"HTTP/1.1 2") {
        bail!("the proxy refused: {}", String::from_utf8_lossy(&head).lines().next().unwrap_or_default());
    }
    Ok(stream)
}

/// `host:port` of the environment's proxy.
fn http_proxy() -> Option<String> {
    let proxy = std::env::var("http_proxy").ok()?;
    let address = proxy.trim_start_matches("http://").trim_end_matches('/');
    (!address.is_empty()).then(|| address.to_owned())
}
