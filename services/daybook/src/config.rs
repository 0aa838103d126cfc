//! Settings, in layers: flag over environment over file over default.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use daybook_cli::Format as Output;
use daybook_query::projections::NAMES;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};

/// What stands before the name of a setting in the environment.
const ENV_PREFIX: &str = "DAYBOOK_";

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "daybook.toml";

/// Variables with the prefix that belong to the client commands.
const CLIENT_VARIABLES: &[&str] = &[
    "command_url",
    "query_url",
    "saga_url",
    "http_url",
    "health_url",
    "config",
    "actor",
    "wait",
    "bin",
];

/// Every setting with its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Where the data lives.
    pub data: PathBuf,
    /// Where the command service listens.
    pub command_listen: SocketAddr,
    /// Where the query service listens.
    pub query_listen: SocketAddr,
    /// Where the saga service listens.
    pub saga_listen: SocketAddr,
    /// Whether `dev` runs the sagas. Without them transfers wait, and orders are fulfilled by hand.
    pub sagas: bool,
    /// Which of the saga processes this is, from 0.
    pub saga_instance: u32,
    /// How many saga processes share the work.
    pub saga_instances: u32,
    /// Where metrics and health are served.
    pub http_listen: SocketAddr,
    /// Kafka brokers, `HOST:PORT,…`; empty for none.
    pub brokers: String,
    /// The partitions of a topic that has to be made.
    pub topic_partitions: u32,
    /// The replicas of a topic that has to be made.
    pub topic_replication: u32,
    /// What stands before the name of every topic.
    pub topic_prefix: String,
    /// Where a query process finds the event log.
    pub log_url: String,
    /// The projections that this process runs, `NAME,…`; empty for all.
    pub projections: String,
    /// The events that a projection applies in one transaction.
    pub batch_size: usize,
    /// How long an answer is remembered while its rows stay the same; 0 for not at all.
    pub cache_lifetime_ms: u64,
    /// The streams that the command side keeps in memory as they are.
    pub cached_streams: usize,
    /// The megabytes (2^20 bytes) of the others, which it keeps packed; 0 for none.
    pub packed_streams_mb: usize,
    /// The largest size of the log in pages of 4 KiB; 0 for what the disk holds.
    pub max_log_pages: u32,
    /// The requests that are worked on at once; more are refused as overload.
    pub max_requests: usize,
    /// The longest that a unary request may take; longer than a query may wait.
    pub request_timeout_ms: u64,
    /// The longest that a shutdown waits for requests under way.
    pub drain_timeout_ms: u64,
    /// `text` or `json`.
    pub log_format: String,
    /// Which log lines are written, such as `info` or `daybook=debug`.
    pub log_filter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            command_listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            query_listen: SocketAddr::from(([127, 0, 0, 1], 50052)),
            saga_listen: SocketAddr::from(([127, 0, 0, 1], 50053)),
            sagas: true,
            saga_instance: 0,
            saga_instances: 1,
            http_listen: SocketAddr::from(([127, 0, 0, 1], 8088)),
            brokers: String::new(),
            topic_partitions: daybook_bus::publisher::PARTITIONS,
            topic_replication: 1,
            topic_prefix: String::new(),
            log_url: "http://127.0.0.1:50051".to_owned(),
            projections: String::new(),
            batch_size: 4000,
            cache_lifetime_ms: 60_000,
            cached_streams: 50_000,
            packed_streams_mb: 256,
            max_log_pages: 0,
            max_requests: 4096,
            request_timeout_ms: 35_000,
            drain_timeout_ms: 10_000,
            log_format: "text".to_owned(),
            log_filter: "info".to_owned(),
        }
    }
}

impl Config {
    /// The projections that this process runs; none for all.
    pub fn projection_names(&self) -> Vec<String> {
        let names = self.projections.split(',').map(str::trim);
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}

/// Every setting as a flag. What is not given stays as the other layers have it.
#[derive(Debug, Clone, Default, Args, Serialize)]
#[command(next_help_heading = "Settings")]
pub struct Flags {
    /// The file with settings [default: daybook.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "DAYBOOK_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Where the data lives [default: data]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Where the command service listens [default: 127.0.0.1:50051]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_listen: Option<String>,
    /// Where the query service listens [default: 127.0.0.1:50052]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_listen: Option<String>,
    /// Where the saga service listens [default: 127.0.0.1:50053]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saga_listen: Option<String>,
    /// Whether `dev` runs the sagas; without them transfers wait, and orders are fulfilled by hand
    /// [default: true]
    #[arg(long, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sagas: Option<bool>,
    /// Which of the saga processes this is, from 0 [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saga_instance: Option<u32>,
    /// How many saga processes share the work; what one leaves undone the others take over
    /// [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saga_instances: Option<u32>,
    /// Where metrics and health are served [default: 127.0.0.1:8088]
    #[arg(long = "http", value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<String>,
    /// Kafka brokers; without them events reach the queries from the log directly
    #[arg(long, value_name = "HOST:PORT,…")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers: Option<String>,
    /// The partitions of a topic that has to be made [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_partitions: Option<u32>,
    /// The replicas of a topic that has to be made [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_replication: Option<u32>,
    /// What stands before the name of every topic, for several systems on one cluster
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_prefix: Option<String>,
    /// Where a query process finds the event log [default: http://127.0.0.1:50051]
    #[arg(long = "log", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_url: Option<String>,
    /// The projections that this process runs; the queries of the others are refused [default: all]
    #[arg(long, value_name = "NAME,…")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projections: Option<String>,
    /// The events that a projection applies in one transaction [default: 4000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// How long an answer is remembered while its rows stay the same; 0 for not at all [default:
    /// 60000]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_lifetime_ms: Option<u64>,
    /// The streams whose state is kept in memory as it is [default: 50000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_streams: Option<usize>,
    /// The megabytes of memory for the states of further streams, packed; 0 for none [default:
    /// 256]
    #[arg(long, value_name = "MB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed_streams_mb: Option<usize>,
    /// The largest size of the log in pages of 4 KiB; 0 for what the disk holds [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_log_pages: Option<u32>,
    /// The requests that are worked on at once; more are refused as overload [default: 4096]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<usize>,
    /// The longest that a unary request may take [default: 35000]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// The longest that a shutdown waits for requests under way [default: 10000]
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout_ms: Option<u64>,
    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
    /// Which log lines are written, such as info or daybook=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_filter: Option<String>,
}

/// A setting, its value, and where the value came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The name in the file; in the environment with `DAYBOOK_` and in capitals.
    pub name: String,
    /// The value.
    pub value: String,
    /// `flag`, `environment`, `file …` or `default`.
    pub source: String,
}

/// Puts the layers together.
pub fn load(flags: &Flags) -> anyhow::Result<Config> {
    let figment = figment(flags)?;
    let config: Config = figment.extract().map_err(|error| readable(&figment, error))?;
    check(&config)?;
    Ok(config)
}

/// Every setting with its source.
pub fn explain(flags: &Flags) -> anyhow::Result<Vec<Setting>> {
    let config = load(flags)?;
    let figment = figment(flags)?;
    let serde_json::Value::Object(values) = serde_json::to_value(&config)? else {
        bail!("the settings are no table")
    };
    let setting = |(name, value): (String, serde_json::Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Setting { source: source(&figment, &name), name, value }
    };
    Ok(values.into_iter().map(setting).collect())
}

/// `daybook config`.
pub fn print(flags: &Flags, format: Output) -> anyhow::Result<()> {
    let settings = explain(flags)?;
    if format == Output::Json {
        return write(&(serde_json::to_string_pretty(&settings)? + "\n"));
    }
    let width = |text: fn(&Setting) -> &str| {
        settings.iter().map(|setting| text(setting).len()).max().unwrap_or_default()
    };
    let (names, values) = (width(|setting| &setting.name), width(|setting| &setting.value));
    let lines = settings.iter().map(|Setting { name, value, source }| {
        format!("{name:names$}  {value:values$}  {source}\n")
    });
    write(&lines.collect::<String>())
}

/// Writes to standard output; a reader that has seen enough is no error.
fn write(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn figment(flags: &Flags) -> anyhow::Result<Figment> {
    let file = match &flags.config {
        Some(file) if !file.exists() => bail!("there is no file {}", file.display()),
        Some(file) => file.clone(),
        None => PathBuf::from(DEFAULT_FILE),
    };
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if file.exists() {
        refuse_unknown(&file)?;
        figment = figment.merge(Toml::file_exact(file));
    }
    Ok(figment.merge(Environment).merge(Serialized::defaults(flags.clone())))
}

/// A misspelt setting in the file would silently be without effect.
fn refuse_unknown(file: &Path) -> anyhow::Result<()> {
    let known = serde_json::to_value(Config::default())?;
    let written: Dict = Figment::from(Toml::file_exact(file))
        .extract()
        .with_context(|| format!("{} cannot be read", file.display()))?;
    for name in written.keys() {
        if known.get(name).is_none() {
            bail!("{} has an unknown setting {name:?}; `daybook config` lists all", file.display());
        }
    }
    Ok(())
}

fn source(figment: &Figment, name: &str) -> String {
    let Some(metadata) = figment.find_metadata(name) else { return "default".to_owned() };
    if metadata.name.contains("Flags") {
        return "flag".to_owned();
    }
    if metadata.name.contains("environment") {
        return format!("environment {ENV_PREFIX}{}", name.to_uppercase());
    }
    match metadata.source.as_ref().and_then(|source| source.file_path()) {
        Some(path) => format!("file {}", path.display()),
        None => "default".to_owned(),
    }
}

fn check(config: &Config) -> anyhow::Result<()> {
    if !matches!(config.log_format.as_str(), "text" | "json") {
        bail!("log_format is {:?}; it must be text or json", config.log_format);
    }
    let names = config.projection_names();
    if let Some(name) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("projections names {name:?}; there are {}", NAMES.join(", "));
    }
    let at_least_one = [
        ("batch_size", config.batch_size),
        ("cached_streams", config.cached_streams),
        ("max_requests", config.max_requests),
        ("saga_instances", config.saga_instances as usize),
        ("topic_partitions", config.topic_partitions as usize),
        ("topic_replication", config.topic_replication as usize),
    ];
    for (name, value) in at_least_one {
        if value == 0 {
            bail!("{name} must be at least 1");
        }
    }
    if config.saga_instance >= config.saga_instances {
        let (instance, instances) = (config.saga_instance, config.saga_instances);
        bail!("saga_instance is {instance}; it must be below saga_instances, which is {instances}");
    }
    Ok(())
}

/// Says which setting is wrong, where it comes from, and its value.
fn readable(figment: &Figment, error: figment::Error) -> anyhow::Error {
    let one = |error: figment::Error| {
        let name = error.path.join(".");
        let value = figment.find_value(&name).ok().and_then(|value| value.into_string());
        let value = value.map(|value| format!(" {value:?}")).unwrap_or_default();
        format!("{name}{value} ({}): {}", source(figment, &name), error.kind)
    };
    let found: Vec<String> = error.into_iter().map(one).collect();
    anyhow::anyhow!("{}", found.join("; "))
}

/// The settings in the environment. A value has the type of its setting, so that the text `123`
/// can be a name.
struct Environment;

impl Environment {
    fn variables() -> impl Iterator<Item = (String, String)> {
        std::env::vars().filter_map(|(name, value)| {
            let name = name.strip_prefix(ENV_PREFIX)?.to_lowercase();
            (!CLIENT_VARIABLES.contains(&name.as_str())).then_some((name, value))
        })
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let defaults = Value::serialize(Config::default())?;
        let typed = |(name, text): (String, String)| {
            let is_number = defaults.as_dict()?.get(&name)?.as_dict().is_none()
                && defaults.as_dict()?.get(&name)?.to_u128().is_some();
            let is_bool = defaults.as_dict()?.get(&name)?.to_bool().is_some();
            let value = match (text.parse::<u64>(), text.parse::<bool>()) {
                (Ok(number), _) if is_number => Value::from(number),
                (_, Ok(yes)) if is_bool => Value::from(yes),
                _ => Value::from(text),
            };
            Some((name, value))
        };
        let dict = Self::variables().filter_map(typed).collect();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Variables with our prefix that are no setting. A misspelt one is without effect, but others may
/// have it for reasons of their own (Kubernetes does), so they are told, not refused.
pub fn unknown_variables() -> Vec<String> {
    let known = serde_json::to_value(Config::default()).unwrap_or_default();
    let unknown = Environment::variables().filter(|(name, _)| known.get(name).is_none());
    unknown.map(|(name, _)| format!("{ENV_PREFIX}{}", name.to_uppercase())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Else it would be cut off, instead of being told how far the projection is.
    #[test]
    fn a_query_may_wait_its_longest_within_the_longest_request() {
        let longest = Duration::from_millis(Config::default().request_timeout_ms);
        assert!(longest > daybook_query::runtime::MAX_WAIT + Duration::from_secs(1));
    }

    #[test]
    fn a_flag_wins_over_the_file_which_wins_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.toml");
        std::fs::write(&file, "batch_size = 7\nmax_requests = 9\n").unwrap();
        let flags = Flags { config: Some(file), batch_size: Some(5), ..Flags::default() };
        let config = load(&flags).unwrap();
        assert_eq!((config.batch_size, config.max_requests), (5, 9));
        let settings = explain(&flags).unwrap();
        let source = |name: &str| {
            settings.iter().find(|setting| setting.name == name).unwrap().source.clone()
        };
        assert_eq!(source("batch_size"), "flag");
        assert!(source("max_requests").starts_with("file "));
        assert_eq!(source("data"), "default");
    }

    #[test]
    fn a_projection_that_there_is_not_is_refused_with_those_that_there_are() {
        let of =
            |names: &str| load(&Flags { projections: Some(names.to_owned()), ..Flags::default() });
        let config = of("account_balance, users,").unwrap();
        assert_eq!(config.projection_names(), ["account_balance", "users"]);
        assert!(of("").unwrap().projection_names().is_empty());
        let text = of("users,acounts").unwrap_err().to_string();
        assert!(text.contains("\"acounts\"") && text.contains("account_balance, "), "{text}");
    }

    #[test]
    fn a_misspelt_setting_in_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.toml");
        std::fs::write(&file, "batchsize = 7\n").unwrap();
        let flags = Flags { config: Some(file), ..Flags::default() };
        assert!(load(&flags).unwrap_err().to_string().contains("batchsize"));
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_its_name() {
        let flags = Flags { http_listen: Some("nowhere".into()), ..Flags::default() };
        let text = load(&flags).unwrap_err().to_string();
        assert_eq!(text, "http_listen \"nowhere\" (flag): invalid socket address syntax");
    }
}
