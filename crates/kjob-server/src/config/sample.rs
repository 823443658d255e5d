//! A config file that has every setting in it, as documentation.

use std::fmt::Write;

use super::{Cli, Keys};

/// Where lines of comments are broken.
const WIDTH: usize = 100;

const HEAD: &str = "\
# The settings of kjob-server. Each stands here with its default, behind a #. Each is a flag as well, and a
# KJOB_ variable; a flag wins over a variable, and a variable over this file. `kjob-server check` prints
# what would be used.
";

const ROUTES: &str = r#"
# Routes: which endpoints other servers and programs run. There may be any number of them.
#
#[[route]]
#endpoint = "/report/*"
#kind = "http"
#upstream = "http://127.0.0.1:8080"
#timeout = "10m"
#
#[[route]]
#endpoint = "/tools/wc"
#kind = "command"
#command = ["wc", "-c"]
"#;

impl Cli {
    /// A config file with every setting, what it is for, and its default behind a `#`; those that are `set`,
    /// by name and value, count.
    ///
    /// ```
    /// use kjob_server::config::{Cli, Config, Keys};
    /// let sample = Cli::sample(&[("data_dir", "/var/lib/kjob")]);
    /// assert!(sample.contains("\n#workers = \"64\"\n"));
    /// let config = Config::resolve(Keys::from_toml(&sample, "kjob.toml".as_ref())?)?;
    /// assert_eq!(config.settings.data_dir.to_str(), Some("/var/lib/kjob"));
    /// # Ok::<(), kjob_server::config::ConfigError>(())
    /// ```
    pub fn sample(set: &[(&str, &str)]) -> String {
        let command = Cli::description();
        let mut sample = HEAD.to_owned();
        for (name, _, default) in Keys::TABLE {
            let argument = command.get_arguments().find(|it| it.get_id() == *name);
            let help = argument.and_then(|it| it.get_long_help().or_else(|| it.get_help()));
            let help = help.map(ToString::to_string).unwrap_or_default();
            // The default stands below, and clap leaves out the last full stop.
            let help = help.split(" [default: ").next().unwrap_or_default();
            sample.push('\n');
            comment(&mut sample, &format!("{help}."));
            // Writing to a text does not fail.
            let _ = match set.iter().find(|(key, _)| key == name) {
                Some((_, value)) => writeln!(sample, "{name} = {value:?}"),
                None => writeln!(sample, "#{name} = {default:?}"),
            };
        }
        sample + ROUTES
    }
}

fn comment(sample: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            sample.push_str(&line);
            sample.push('\n');
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    sample.push_str(&line);
    sample.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    /// Its settings with their texts.
    fn listing(text: &str) -> Vec<(&'static str, String)> {
        let keys = Keys::from_toml(text, "kjob.toml".as_ref()).unwrap();
        let listing = Config::resolve(keys).unwrap().listing.into_iter();
        listing.map(|(name, text, _)| (name, text)).collect()
    }

    #[test]
    fn what_it_shows_is_what_counts_without_it() {
        let sample = Cli::sample(&[]);
        assert_eq!(listing(&sample), listing(""));
        // Every line that is a setting says what it is by default, and routes are ones that can be.
        let settings = sample.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        });
        let all: Vec<_> = settings.collect();
        let all = all.join("\n");
        assert_eq!(listing(&all), listing(""));
        let keys = Keys::from_toml(&all, "kjob.toml".as_ref()).unwrap();
        assert_eq!(Config::resolve(keys).unwrap().routes.len(), 2);
        for name in Keys::NAMES {
            assert!(all.contains(&format!("\n{name} = ")), "{name}");
        }
    }

    #[test]
    fn every_setting_says_what_it_is_for() {
        let sample = Cli::sample(&[("workers", "3")]);
        assert!(
            sample.contains("\n# How many jobs run at once.\nworkers = \"3\"\n"),
            "{sample}"
        );
        // A full stop alone.
        assert!(!sample.contains("\n# .\n"), "{sample}");
        assert!(sample.lines().all(|line| line.len() <= 110), "{sample}");
    }
}
