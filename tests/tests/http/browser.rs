//! A page in a real browser: its `EventSource` has all of a stream, over reloads of the page and a broker that is killed.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use sluicegate_tests::{PATIENCE, sluice};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{World, client, log};

/// It keeps what it saw, and reads on behind that when it is loaded again.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>a stream</title><pre id="seen"></pre><script>
const kept = JSON.parse(localStorage.getItem("kept") ?? '{"texts":[],"last":"","loads":0,"over":false}');
kept.loads += 1;
const keep = () => {
  localStorage.setItem("kept", JSON.stringify(kept));
  document.getElementById("seen").textContent = `${kept.loads} loads\n${kept.texts.join(" ")}${kept.over ? "\nover" : ""}`;
};
keep();
const url = new URL(location.hash.slice(1));
if (kept.last) url.searchParams.set("after", kept.last);
const stream = new EventSource(url);
stream.onmessage = (event) => { kept.texts.push(event.data); kept.last = event.lastEventId; keep(); };
stream.addEventListener("end", () => { stream.close(); kept.over = true; keep(); });
</script>"#;

/// Chromium, by its driver. Dropping it ends both.
struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// None where there is none, which is said.
    async fn start() -> Result<Option<Self>> {
        let path = |variable| std::env::var_os(variable).map(PathBuf::from);
        let (Some(chromium), Some(driver)) = (path("SLUICEGATE_CHROMIUM"), path("SLUICEGATE_CHROMEDRIVER")) else {
            eprintln!(
                "skipped: `cargo xtask test` sets SLUICEGATE_CHROMIUM and SLUICEGATE_CHROMEDRIVER, where there is a browser"
            );
            return Ok(None);
        };
        let mut driver = Command::new(driver).arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut said = BufReader::new(driver.stdout.take().context("its output is piped")?).lines();
        let port = said.by_ref().find_map(|line| {
            let line = line.ok()?;
            line.strip_prefix("ChromeDriver was started successfully on port ")?.trim_end_matches('.').parse().ok()
        });
        let port: u16 = port.context("chromedriver does not say where it is")?;
        // What it says must go somewhere.
        std::thread::spawn(move || said.count());
        let profile = tempfile::tempdir()?;
        let profile_argument = format!("--user-data-dir={}", profile.path().display());
        let http = reqwest::Client::builder().tls_backend_preconfigured(no_tls()?).no_proxy().build()?;
        let url = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { driver, http, session: url.clone(), _profile: profile };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &profile_argument,
        ];
        let options = json!({ "binary": chromium, "args": arguments });
        // The broker has the certificate of development, which no authority signed.
        let wanted = json!({ "browserName": "chrome", "acceptInsecureCerts": true, "goog:chromeOptions": options });
        let opened = browser.post("", json!({ "capabilities": { "alwaysMatch": wanted } })).await?;
        browser.session = format!("{url}/{}", opened["sessionId"].as_str().context("a session")?);
        Ok(Some(browser))
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        let answer = self.http.post(format!("{}{path}", self.session)).json(&body).send().await?;
        let (status, mut said): (_, Value) = (answer.status(), answer.json().await?);
        ensure!(status == 200, "{path}: {status} {said}");
        Ok(said["value"].take())
    }

    /// What the page keeps.
    async fn kept(&self) -> Result<Value> {
        let script = r#"return localStorage.getItem("kept") ?? "{}";"#;
        let kept = self.post("/execute/sync", json!({ "script": script, "args": [] })).await?;
        Ok(serde_json::from_str(kept.as_str().context("a text")?)?)
    }

    /// Waits until the page has seen so many messages.
    async fn sees(&self, count: usize) -> Result<()> {
        let seen = async {
            while self.kept().await?["texts"].as_array().map_or(0, Vec::len) < count {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, seen).await.with_context(|| format!("the page does not see {count} messages"))?
    }

    /// What it shows, as a file beside what was built.
    async fn screenshot(&self, name: &str) -> Result<PathBuf> {
        let answer: Value = self.http.get(format!("{}/screenshot", self.session)).send().await?.json().await?;
        let png = base64::engine::general_purpose::STANDARD.decode(answer["value"].as_str().context("a picture")?)?;
        let binary = sluice();
        let folder = binary.parent().and_then(|release| release.parent()).context("it is in target/release")?;
        let (folder, path) = (folder.join("screenshots"), folder.join("screenshots").join(name));
        std::fs::create_dir_all(folder)?;
        std::fs::write(&path, png)?;
        Ok(path)
    }

    async fn close(self) -> Result<()> {
        // It ends the browser's processes.
        self.http.delete(&self.session).send().await?.error_for_status()?;
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The driver speaks plain HTTP on loopback; a client wants to know whom it would trust.
fn no_tls() -> Result<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// Serves the page to whoever asks.
async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut asked = [0; 4096];
            let _ = socket.read(&mut asked).await?;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{PAGE}", PAGE.len());
            socket.write_all(answer.as_bytes()).await
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_all_of_a_stream_over_two_reloads_and_a_killed_broker() -> Result<()> {
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    tokio::spawn(serve(listener));
    let (_folder, config) = super::bad::with_tokens(&format!("http_origins = [\"{origin}\"]"))?;
    let mut world = World::start_with(&["--dev", "--config", &config], log(None)).await?;
    let mut published = 0;
    let publish = async |world: &World, count: usize, published: &mut usize| -> Result<()> {
        for _ in 0..count {
            world.publish("lite=chat/1", &published.to_string()).await?;
            *published += 1;
        }
        Ok(())
    };
    let page = format!("{origin}/#{}", world.url("stream?lite=chat/1"));
    browser.post("/url", json!({ "url": page })).await?;
    publish(&world, 20, &mut published).await?;
    browser.sees(10).await?;
    for reload in 1..=2 {
        // Some come while nobody reads.
        let ((), reloaded) =
            tokio::try_join!(publish(&world, 20, &mut published), browser.post("/refresh", json!({})))?;
        assert_eq!(reloaded, Value::Null);
        browser.sees(20 * reload + 5).await?;
    }
    world.broker.crash_and_restart()?;
    world.http = client(&world.broker)?;
    publish(&world, 20, &mut published).await?;
    world.publish("lite=chat/1&end=1", &published.to_string()).await?;
    browser.sees(published + 1).await?;
    let over = async {
        while browser.kept().await?["over"] != true {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, over).await.context("the page does not see the end")??;
    eprintln!("what the page shows: {}", browser.screenshot("event-source.png").await?.display());
    let kept = browser.kept().await?;
    let all: Vec<_> = (0..=published).map(|number| number.to_string()).collect();
    assert_eq!((&kept["texts"], &kept["loads"]), (&json!(all), &json!(3)));
    browser.close().await
}
