//! A sample configuration for the files of `auditsync certs`.

use std::fmt::Write as _;
use std::path::Path;

/// The configuration of auditsync, Fluentd and Fluent Bit with the files in `folder`, for a receiver on `host`.
pub(crate) fn certificates_guide(host: &str, folder: &Path) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let (ca, certificate, key) = (path("ca.crt"), path("server.crt"), path("server.key"));
    let (client, client_key) = (path("client.crt"), path("client.key"));
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut text = String::new();
    // Writing into memory cannot fail.
    let _ = write!(
        text,
        "\
# Only their owner can read the keys: make the receiver's user the owner of server.key. ca.key issues further
# certificates; keep it off these machines.

# auditsync: .env
FLUENTD_URL=https://{host}:8888/audit.log
FLUENTD_CA={ca}
FLUENTD_CERT={client}
FLUENTD_KEY={client_key}

# Fluentd: fluent.conf
<source>
  @type http
  port 8888
  <transport tls>
    client_cert_auth true
    ca_path {ca}
    cert_path {certificate}
    private_key_path {key}
  </transport>
  <parse>
    @type json
    time_key evt_time
    time_type string
    time_format %iso8601
    keep_time_key true
  </parse>
</source>
# The buffer belongs in the output. On disk it survives a crash.
<match audit.** session.**>
  @type file
  path /var/log/fluent/audit
  <buffer>
    @type file
    path /var/log/fluent/audit-buffer
  </buffer>
</match>

# Fluent Bit: fluent-bit.conf
[SERVICE]
    storage.path /var/lib/fluent-bit
[INPUT]
    Name http
    Listen 0.0.0.0
    Port 8888
    storage.type filesystem
    tls on
    tls.verify_client_cert on
    tls.ca_file {ca}
    tls.crt_file {certificate}
    tls.key_file {key}
[OUTPUT]
    Name file
    Match *
    Path /var/log/fluent-bit
"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_the_guide_exists() {
        let guide = certificates_guide("::1", Path::new("/etc/certs"));
        let settings = guide.lines().filter_map(|line| line.strip_prefix("FLUENTD_")?.split_once('='));
        let mut count = 0;
        for (name, value) in settings {
            let name = format!("FLUENTD_{name}");
            assert!(super::super::variables::VARIABLES.iter().any(|spec| spec.name == name), "{name}");
            assert!(value.starts_with("https://[::1]:8888/") || value.starts_with("/etc/certs/"), "{value}");
            count += 1;
        }
        assert_eq!(count, 4);
    }
}
