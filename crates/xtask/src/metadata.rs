//! What cargo knows about the workspace.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{self, Tool};

/// The workspace, as far as the commands need it.
pub(crate) struct Workspace {
    /// Its root directory.
    pub(crate) root: PathBuf,
    /// Where all that is built goes.
    pub(crate) target: PathBuf,
    /// Its published packages.
    pub(crate) public: Vec<Package>,
}

/// A published package.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Without `default`, in order of name.
    pub(crate) features: Vec<String>,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let text = process::output(Tool::Cargo.command().args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
        ]))?;
        let metadata: Value = serde_json::from_str(&text).context("cargo metadata is JSON")?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata has no target_directory")?;
        Ok(Self {
            root: process::root().to_owned(),
            target: target.into(),
            public: public_packages(&metadata),
        })
    }
}

fn public_packages(metadata: &Value) -> Vec<Package> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    // `publish = false` is an empty list of registries.
    let public = packages.filter(|package| {
        package["publish"]
            .as_array()
            .is_none_or(|list| !list.is_empty())
    });
    public
        .map(|package| {
            let features = package["features"]
                .as_object()
                .into_iter()
                .flat_map(|features| features.keys());
            let mut features: Vec<_> = features
                .filter(|name| *name != "default")
                .cloned()
                .collect();
            features.sort();
            Package {
                name: package["name"].as_str().unwrap_or_default().to_owned(),
                features,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_packages_and_their_features() {
        let metadata = serde_json::json!({"packages": [
            {"name": "tool", "publish": [], "features": {"x": []}},
            {"name": "plain", "publish": null, "features": {}},
            {"name": "rich", "publish": null, "features": {"z": [], "default": ["a"], "a": []}},
        ]});
        assert_eq!(
            public_packages(&metadata),
            [
                Package {
                    name: "plain".to_owned(),
                    features: vec![]
                },
                Package {
                    name: "rich".to_owned(),
                    features: vec!["a".to_owned(), "z".to_owned()]
                },
            ]
        );
    }

    #[test]
    fn this_workspace() {
        let workspace = Workspace::load().unwrap();
        assert!(workspace.root.join("Cargo.toml").is_file());
        let names: Vec<_> = workspace
            .public
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        assert!(names.contains(&"kjob-proto"), "{names:?}");
        assert!(!names.contains(&"xtask"), "{names:?}");
    }
}
