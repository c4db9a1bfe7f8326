//! Upstream's end-to-end suite against the cluster: run unchanged, its report read.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Cluster;

/// How one specification of the suite ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    pub passed: bool,
    pub took: Duration,
    /// Why it failed; empty if it passed.
    pub reason: String,
}

/// What is told of one run by the suite's own report.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Report>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    leaf_node_labels: Option<Vec<String>>,
    state: String,
    /// Nanoseconds.
    run_time: u64,
    #[serde(default)]
    failure: Failure,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// Whether the suite's own words are printed as it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    Shown,
    /// In the file `e2e.log` of the logs alone.
    Kept,
}

/// Runs what `focus` (a regular expression) chooses of the suite and `skip` does not leave out.
///
/// # Errors
/// When the suite cannot be run or says nothing; failed specifications are in what is returned.
pub fn run(cluster: &Cluster, focus: &str, skip: Option<&str>, words: Words) -> Result<Vec<Spec>> {
    // Of each run its own: tests run side by side.
    let report = cluster
        .dir()
        .join(format!("e2e-{}.json", std::process::id()));
    let nodes = cluster.status()?.nodes.len();
    let mut command = cluster.reaching_api(cluster.programs().join("e2e.test"))?;
    command
        .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
        .arg(format!(
            "--kubectl-path={}",
            cluster.programs().join("kubectl").display()
        ))
        .args([
            "--provider=skeleton",
            "--disable-log-dump",
            "--ginkgo.no-color",
        ])
        .arg(format!("--num-nodes={nodes}"))
        .arg(format!("--ginkgo.focus={focus}"))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .stdin(Stdio::null())
        .current_dir(cluster.dir());
    if let Some(skip) = skip {
        command.arg(format!("--ginkgo.skip={skip}"));
    }
    if words == Words::Kept {
        let log = super::log(&cluster.logs(), "e2e")?;
        command.stdout(log.try_clone()?).stderr(log);
    }
    // A failed specification is the report's to tell.
    command.status().context("run e2e.test")?;
    let specs = read(&report);
    let _ = fs::remove_file(&report);
    specs
}

fn read(report: &Path) -> Result<Vec<Spec>> {
    let bytes = fs::read(report).context("the suite left no report; see what it printed")?;
    parse(&bytes)
}

fn parse(report: &[u8]) -> Result<Vec<Spec>> {
    let suites: Vec<Suite> = serde_json::from_slice(report).context("the suite's report")?;
    let all = suites
        .into_iter()
        .flat_map(|suite| suite.spec_reports.unwrap_or_default());
    let ran = all.filter(|report| report.state != "skipped" && report.state != "pending");
    // What prepares the suite is told of when it fails.
    let told = ran.filter(|report| report.leaf_node_type == "It" || report.state != "passed");
    Ok(told.map(Spec::from).collect())
}

impl From<Report> for Spec {
    fn from(report: Report) -> Self {
        let mut words = report.container_hierarchy_texts.unwrap_or_default();
        if report.leaf_node_text.is_empty() {
            words.push(report.leaf_node_type);
        } else {
            words.push(report.leaf_node_text);
        }
        let labels = report.leaf_node_labels.unwrap_or_default();
        if labels.iter().any(|label| label == "Conformance")
            && !words.concat().contains("[Conformance]")
        {
            words.push("[Conformance]".to_owned());
        }
        Self {
            name: words.join(" "),
            passed: report.state == "passed",
            took: Duration::from_nanos(report.run_time),
            reason: report.failure.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_cut_down_to_what_ran() {
        let report = br#"[{"SpecReports": [
            {"ContainerHierarchyTexts": null, "LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "",
             "State": "passed", "RunTime": 5},
            {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It",
             "LeafNodeText": "should work", "LeafNodeLabels": ["Conformance"], "State": "passed", "RunTime": 2000000000},
            {"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It",
             "LeafNodeText": "should fail", "State": "failed", "RunTime": 1, "Failure": {"Message": "no answer"}},
            {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "later", "State": "skipped", "RunTime": 0}
        ]}]"#;
        let specs = parse(report).unwrap();
        let told: Vec<(&str, bool, u64, &str)> = specs
            .iter()
            .map(|spec| (&*spec.name, spec.passed, spec.took.as_secs(), &*spec.reason))
            .collect();
        assert_eq!(
            told,
            [
                ("[sig-network] DNS should work [Conformance]", true, 2, ""),
                ("[sig-network] DNS should fail", false, 0, "no answer"),
            ]
        );
    }
}
