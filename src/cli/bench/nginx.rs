//! The yardstick: nginx serving a static file of the same size under the same path, without
//! authentication.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::process::{Cores, Process};
use super::tls::Files;

pub struct Nginx {
    pub process: Process,
    pub address: SocketAddr,
}

/// The nginx there is: on the `PATH`, or where systems keep it beside.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(beside)
        .map(|dir| dir.join("nginx"))
        .find(|program| program.is_file())
}

impl Nginx {
    /// Serves `body` at `path` for as long as this lives; its files are in `dir`.
    pub async fn start(
        program: &Path,
        dir: &Path,
        cores: &Cores,
        connections: usize,
        path: &str,
        body: &[u8],
        tls: Option<&Files>,
    ) -> anyhow::Result<Nginx> {
        let address = free_address()?;
        let file = dir.join("www").join(path.trim_start_matches('/'));
        let parent = file.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        std::fs::write(&file, body).with_context(|| file.display().to_string())?;
        let settings = dir.join("nginx.conf");
        std::fs::write(&settings, configuration(address, cores.server, connections, tls))
            .with_context(|| settings.display().to_string())?;

        let mut command = Command::new(program);
        command.arg("-p").arg(dir).arg("-c").arg(&settings);
        let mut process = Process::start(&mut command, cores, dir.join("nginx.log"))?;
        process.wait_until(|| TcpStream::connect(address).is_ok()).await?;
        Ok(Nginx { process, address })
    }
}

/// nginx takes no port 0, so somebody has to find one for it.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// What a careful operator gives nginx for speed. Relative paths are under `-p`.
fn configuration(
    address: SocketAddr,
    workers: usize,
    connections: usize,
    tls: Option<&Files>,
) -> String {
    let (listen, certificate) = match tls {
        None => ("", String::new()),
        Some(Files { certificate, key }) => {
            let (certificate, key) = (certificate.display(), key.display());
            (
                " ssl",
                format!(
                    "\n        ssl_certificate {certificate};\n        ssl_certificate_key {key};"
                ),
            )
        }
    };
    // Started by root it would become nobody, who may not enter our directory.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {kind};"))
        .join("\n");
    format!(
        "{user}daemon off;
worker_processes {workers};
pid nginx.pid;
error_log stderr;
events {{ worker_connections {}; }}
http {{
{temporary}
    access_log off;
    default_type text/plain;
    open_file_cache max=16 inactive=1h;
    open_file_cache_valid 1h;
    keepalive_requests 1000000000;
    ssl_session_cache shared:tls:16m;
    server {{
        listen {address} backlog=4096{listen};{certificate}
        root www;
    }}
}}
",
        // Its listeners and files count too.
        connections + 64
    )
}
