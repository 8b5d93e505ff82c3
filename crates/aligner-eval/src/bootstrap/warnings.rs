//! What to know before training on the rows.

use super::counts::Counts;
use super::format::BootstrapFormat;
use super::lineage::{LicenceNote, Source, licences};
use super::options::BootstrapOptions;
use super::scores::Scores;
use super::select::{Candidate, Rows, newly_refuses};

/// What the paper measured of one round.
const MEASURED: &str = "In the Aligner paper (arXiv 2402.02416, Alpaca-7B) one round of SFT on corrections gained +14.0 \
                        helpfulness and +63.7 harmlessness, where one round of DPO lost helpfulness (−51.3)";

/// Warnings of the rows themselves.
pub(super) fn of_rows(rows: &Rows<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(of_format(rows.options.format));
    let round = rows.lineage.next_round();
    let notes = licences(&rows.lineage, round, &rows.aligners, &rows.datasets);
    warnings.extend(of_licences(&notes));
    warnings.extend(of_unknown(&rows.aligners, &rows.datasets));
    let all = || rows.train.iter().chain(&rows.valid);
    let refusals = all().filter(|outcome| newly_refuses(outcome)).count();
    if refusals > 0 {
        warnings.push(format!(
            "{refusals} of {} corrections refuse where the answer did not; a model that learns from them refuses more",
            rows.counts.kept
        ));
    }
    if rows.options.valid_share > 0.0 && rows.valid.is_empty() {
        warnings.push("no question fell to validation: there are too few for its share".into());
    }
    if rows.upstreams.len() > 1 {
        warnings.push(format!(
            "the answers are of {} upstreams: a preference against another model's answer says little of one's own",
            rows.upstreams.len()
        ));
    }
    warnings
}

/// Warnings of scores, and of those that are not there.
pub(super) fn of_scores(
    kept: &[Candidate<'_>],
    scores: &Scores<'_>,
    options: &BootstrapOptions,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if scores.unmatched > 0 {
        let count = scores.unmatched;
        warnings.push(format!("{count} scores are of no correction that is here"));
    }
    let unscored = kept.iter().filter(|candidate| candidate.margins.cost.is_none());
    let unscored = unscored.count();
    if scores.has_costs && !options.filters.allow_higher_cost && unscored > 0 {
        warnings.push(format!(
            "{unscored} of {} corrections have no cost: whether it rose was not looked at",
            kept.len()
        ));
    }
    warnings
}

/// That the evaluation has not ended.
pub(super) fn of_end(counts: &Counts, planned: Option<u64>) -> Option<String> {
    let (input, planned) = (counts.input, planned?);
    (input < planned).then(|| {
        format!(
            "the evaluation has not ended: {input} of {planned} corrections are there; `aligner eval run` goes on with it"
        )
    })
}

fn of_format(format: BootstrapFormat) -> Option<String> {
    match format {
        BootstrapFormat::Dpo => Some(format!(
            "{MEASURED}: prefer `sft`, or measure what DPO does to helpfulness."
        )),
        BootstrapFormat::Kto => Some(format!(
            "{MEASURED}. KTO was not measured there, and it too trains away from the answer: prefer `sft`, or measure."
        )),
        _ => None,
    }
}

fn of_licences(notes: &[LicenceNote]) -> impl Iterator<Item = String> {
    let forbidding = notes.iter().filter(|note| note.is_non_commercial);
    forbidding.map(|note| {
        let LicenceNote {
            licence, of, round, ..
        } = note;
        format!("{licence} forbids commercial use ({of}, round {round}); that goes for the rows, and for what is trained on them")
    })
}

fn of_unknown(aligners: &[Source], datasets: &[Source]) -> Option<String> {
    let unknown = |what: &'static str, sources: &[Source]| -> Vec<String> {
        let unknown = sources.iter().filter(|source| source.licence.is_none());
        unknown.map(|source| format!("{what} {}", source.name)).collect()
    };
    let mut names = unknown("Aligner", aligners);
    names.extend(unknown("data set", datasets));
    (!names.is_empty()).then(|| format!("no data licence is known of: {}", names.join(", ")))
}
