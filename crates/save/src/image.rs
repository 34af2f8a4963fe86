//! From packed layers to a named image, and to the chain that the next save continues.

use std::sync::Arc;

use layer::codec::{self, is_worth_compressing};
use layer::frames::{FrameMap, Sealed};
use layer::pack::Packed;
use layer::plan::{Plan, Source};
use layer::scan::open_file;
use layer::table::Table;
use registry::config::ImageConfig;
use registry::{Descriptor, Digest, Image, Ingest, Manifest, NewImage, media};

use crate::chain::{self, Tier, TierRecord};
use crate::error::SaveError;
use crate::job::Job;
use crate::knowledge::{FileStamp, Learned};
use crate::request::{Compression, LayerReport, Report, WithEnv};
use crate::saving::{Saving, Scratch};

/// A layer that this save packed.
#[derive(Debug)]
pub(crate) struct NewLayer {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) sealed: Sealed,
    pub(crate) taken_bytes: u64,
    pub(crate) buries: Vec<(u64, u64)>,
    ingest: Ingest,
    map: Arc<FrameMap>,
    table: Scratch,
}

impl NewLayer {
    pub(crate) fn new(
        packed: Packed,
        ingest: Ingest,
        table: Scratch,
        buries: Vec<(u64, u64)>,
    ) -> Result<NewLayer, SaveError> {
        let map = Arc::new(packed.map);
        let sealed = Sealed { file: Arc::new(ingest.file().try_clone()?), map: Arc::clone(&map) };
        Ok(NewLayer {
            digest: Digest::from(packed.digest),
            diff_id: Digest::from(packed.diff_id),
            size: packed.size,
            sealed,
            taken_bytes: packed.taken_bytes,
            buries,
            ingest,
            map,
            table,
        })
    }

    /// What the layer holds.
    pub(crate) fn open_table(&self) -> Result<Table, SaveError> {
        Ok(Table::open(std::fs::File::open(&self.table.0)?)?)
    }

    fn compression(&self) -> media::Compression {
        match self.map.compression {
            codec::Compression::None => media::Compression::None,
            codec::Compression::Gzip { .. } => media::Compression::Gzip,
            codec::Compression::Zstd { .. } => media::Compression::Zstd,
        }
    }
}

/// How many places of the bytes to be read are looked at to tell whether they compress.
const SAMPLES: u64 = 32;
/// How many bytes at each.
const SAMPLE: usize = 32 << 10;
/// Below this, compressing always costs nothing.
const NOTHING: u64 = 1 << 20;

/// How the layer of a plan is compressed.
pub(crate) fn compression(
    job: &Job<'_>,
    plan: &mut Plan,
    held: &[Sealed],
) -> Result<codec::Compression, SaveError> {
    let level = match job.request.compression {
        Compression::None => return Ok(codec::Compression::None),
        Compression::Gzip(level) => return Ok(codec::Compression::Gzip { level }),
        Compression::Zstd(level) => return Ok(codec::Compression::Zstd { level }),
        Compression::Auto(level) => level,
    };
    let zstd = codec::Compression::Zstd { level };
    let totals = plan.totals();
    if totals.held > totals.to_read
        && let Some(first) = held.first()
    {
        // what is taken over decides: another form would have to be packed again
        return Ok(first.map.compression);
    }
    if totals.to_read < NOTHING {
        return Ok(zstd);
    }
    let samples = samples(job, plan, totals.to_read)?;
    Ok(if is_worth_compressing(&samples) { zstd } else { codec::Compression::None })
}

/// Reads evenly spread samples of what the plan will read.
fn samples(job: &Job<'_>, plan: &mut Plan, total: u64) -> Result<Vec<u8>, SaveError> {
    let stride = (total / SAMPLES).max(1);
    let mut samples = Vec::with_capacity(SAMPLE * 32);
    let (mut before, mut next) = (0u64, stride / 2);
    plan.each(|step| {
        let Source::Upper(node) = &step.source else { return Ok(()) };
        let size = node.stat.size;
        let mut file = None;
        while next < before + size {
            if file.is_none() {
                file = open_file(job.upper(), &step.entry.path).ok();
            }
            if let Some(file) = &file {
                let start = samples.len();
                samples.resize(start + SAMPLE, 0);
                let at = (next - before).min(size.saturating_sub(SAMPLE as u64));
                let read = std::os::unix::fs::FileExt::read_at(file, &mut samples[start..], at).unwrap_or(0);
                samples.truncate(start + read);
            }
            next += stride;
        }
        before += size;
        Ok::<(), std::io::Error>(())
    })?;
    Ok(samples)
}

/// Makes the image durable, names it, and keeps the chain.
pub(crate) fn publish(mut saving: Saving<'_>) -> Result<Report, SaveError> {
    let (job, chain) = (saving.job, saving.chain);
    check_strict(&saving)?;
    job.progress.stage("store", None);
    let kept = &chain.tiers[..saving.stay];
    let new = std::mem::take(&mut saving.layers);
    let records = records(&saving, kept, &new);

    let config = config(job, &records, new.is_empty())?;
    let config_json = config.to_json();
    let own = records.iter().map(|record| Descriptor::new(&record.media_type, record.digest, record.size));
    let base_layers = job.base.as_ref().map_or(&[][..], |base| &base.manifest.layers);
    let buried = total(&chain::buried(records.iter().map(|record| &record.buries[..])));
    let manifest = Manifest::compose(job.request.format, &config_json, base_layers, own.collect())?;
    let layers_reported = reported(job.base.as_ref(), &records, kept.len());

    let mut packed = Vec::new();
    let mut caches = Vec::new();
    let mut taken = 0;
    for layer in new {
        taken += layer.taken_bytes;
        caches.push((layer.digest, layer.table, Arc::clone(&layer.map)));
        packed.push(registry::Packed { ingest: layer.ingest, digest: layer.digest, size: layer.size });
    }
    let names = job.request.names.clone();
    let image =
        NewImage { layers: packed, config: config_json, manifest: manifest.to_json(), names: names.clone() };
    let published = job.store.publish(image)?;
    saving.moments.durable = Some(saving.start.elapsed());

    // from here on only caches: what fails costs the next save time
    let kept_caches: std::io::Result<()> = (|| {
        for (digest, table, map) in &caches {
            chain.keep_layer(digest, &table.0, map)?;
        }
        let known = known(&mut saving)?;
        chain.keep(records, published.manifest.digest, known.as_ref().map(|known| known.0.as_path()))
    })();
    if let Err(error) = kept_caches {
        saving.warnings.push(format!("the next save will be a whole one: {error}"));
    }
    let mut report = saving.report();
    report.reused_bytes += taken;
    report.buried = buried;
    report.names = names.iter().map(registry::Reference::familiar).collect();
    report.digest = Some(published.manifest.digest);
    report.id = Some(published.id);
    report.layers = layers_reported;
    Ok(report)
}

/// Files and bytes of all layers.
pub(crate) fn total(buried: &[(u64, u64)]) -> (u64, u64) {
    buried.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

fn check_strict(saving: &Saving<'_>) -> Result<(), SaveError> {
    if !saving.job.request.strict {
        return Ok(());
    }
    if let Some((path, _)) = saving.decided.left_out.first() {
        return Err(SaveError::Strict { path: path.clone(), why: "no image can hold it" });
    }
    if let Some(path) = saving.findings.torn.first() {
        return Err(SaveError::Strict { path: path.clone(), why: "it changed while it was read" });
    }
    Ok(())
}

/// What the chain writes down: the layers that stay, then the new ones.
fn records(saving: &Saving<'_>, kept: &[Tier], new: &[NewLayer]) -> Vec<TierRecord> {
    let (job, chain) = (saving.job, saving.chain);
    let mut records: Vec<TierRecord> = kept.iter().map(|tier| tier.record.clone()).collect();
    let merged: u64 = chain.tiers[kept.len()..].iter().map(|tier| tier.record.saves).sum();
    let is_merge = merged > 0 && !matches!(job.request.shape, crate::request::Shape::Squash);
    let words = &job.request.words;
    for (at, layer) in new.iter().enumerate() {
        let is_last = at + 1 == new.len();
        let saves = if at == 0 && is_merge { merged + 1 } else { 1 };
        let created_by = words.created_by.clone().unwrap_or_else(|| "headstart commit".to_owned());
        let created_by =
            if saves > 1 { format!("{created_by} ({saves} commits, merged)") } else { created_by };
        records.push(TierRecord {
            digest: layer.digest,
            diff_id: layer.diff_id,
            size: layer.size,
            // compression and format were checked when the manifest's layers were composed
            media_type: job.request.format.layer(layer.compression()).unwrap_or(media::OCI_LAYER).to_owned(),
            buries: layer.buries.clone(),
            saves,
            created: job.created().to_string(),
            created_by,
            author: words.author.clone(),
            comment: words.message.clone().filter(|_| is_last),
        });
    }
    records
}

fn config(job: &Job<'_>, records: &[TierRecord], is_unchanged: bool) -> Result<ImageConfig, SaveError> {
    let mut config = job.base.as_ref().map(|base| base.config.clone()).unwrap_or_default();
    let created = job.created();
    for record in records {
        config.record(&record.history(created), &[record.diff_id]);
    }
    if is_unchanged {
        let words = &job.request.words;
        let step = registry::config::Step {
            created,
            created_by: words.created_by.clone().unwrap_or_else(|| "headstart commit".to_owned()),
            author: words.author.clone(),
            comment: words.message.clone(),
        };
        config.record(&step, &[]);
    }
    if let Some(with_env) = &job.request.words.with_env {
        take_environment(job, with_env, &mut config)?;
    }
    config.apply(&job.request.words.changes)?;
    Ok(config)
}

/// Environment and arguments of the running process, when they were asked for.
fn take_environment(job: &Job<'_>, with_env: &WithEnv, config: &mut ImageConfig) -> Result<(), SaveError> {
    let process = job.source.process.as_ref().ok_or(SaveError::NoProcess)?;
    let pid = process.handle.pid();
    let failed = |source| SaveError::Environment { pid, source };
    let read = |name: &str| -> Result<Vec<String>, SaveError> {
        let bytes = std::fs::read(format!("/proc/{pid}/{name}")).map_err(failed)?;
        // each ends in a zero byte; an empty one counts
        let whole = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        let parts = whole.split(|&byte| byte == 0).filter(|_| !bytes.is_empty());
        // a configuration is JSON, and bytes that are no text cannot stand in it unchanged
        let text = |part: &[u8]| String::from_utf8(part.to_vec());
        parts.map(text).collect::<Result<_, _>>().map_err(|_| failed(std::io::ErrorKind::InvalidData.into()))
    };
    let variables = read("environ")?;
    if *with_env == WithEnv::All {
        config.config.entrypoint = None;
        config.config.cmd = Some(read("cmdline")?);
    }
    // the process may have ended, and its number be another's, since the source was found
    job.source.check()?;
    for variable in variables {
        let Some((key, _)) = variable.split_once('=') else { continue };
        let is_wanted = match with_env {
            WithEnv::All => true,
            WithEnv::Keys(keys) => keys.iter().any(|wanted| wanted == key),
        };
        if is_wanted {
            let prefix = format!("{key}=");
            config.config.env.retain(|known| !known.starts_with(&prefix));
            config.config.env.push(variable);
        }
    }
    Ok(())
}

fn reported(base: Option<&Image>, records: &[TierRecord], kept: usize) -> Vec<LayerReport> {
    let base_layers =
        base.into_iter().flat_map(|base| {
            base.manifest.layers.iter().zip(&base.config.rootfs.diff_ids).map(|(layer, diff_id)| {
                LayerReport { digest: layer.digest, diff_id: *diff_id, size: layer.size, new: false }
            })
        });
    let own = records.iter().enumerate().map(|(at, record)| LayerReport {
        digest: record.digest,
        diff_id: record.diff_id,
        size: record.size,
        new: at >= kept,
    });
    base_layers.chain(own).collect()
}

/// What the next save may know: of the files that are still there, what was known before and what was
/// learned now. `None` when nothing was learned and what was written before still stands.
fn known(saving: &mut Saving<'_>) -> Result<Option<Scratch>, std::io::Error> {
    let other = |error: layer::record_file::RecordFileError| std::io::Error::other(error);
    let Some(mut walked) = saving.walked.take() else { return Ok(None) };
    let mut learned = Learned::new(&saving.job.spill);
    let before = saving.chain.knowledge.as_ref().filter(|_| !saving.job.request.verify);
    let mut any = false;
    for knowledge in before.into_iter().chain(&saving.knowledge) {
        let is_new = before.is_none_or(|before| !std::ptr::eq(before, knowledge));
        let mut cursor = knowledge.cursor().map_err(other)?;
        let mut told = walked.tell()?;
        while let Some(seen) = layer::judge::Walk::next(&mut told)? {
            if let Some(known) = cursor.find(&seen.node.path).map_err(other)?
                && known.stamp == FileStamp::from(&seen.node.stat)
                && known.is_settled
            {
                any |= is_new;
                learned.push(known)?;
            }
        }
    }
    // what another boot wrote must not be taken for this one's
    if !any && saving.chain.knowledge.is_some() {
        return Ok(None);
    }
    let (path, file) = saving.chain.scratch("known")?;
    let scratch = Scratch(path);
    learned.write(file).map_err(other)?;
    Ok(Some(scratch))
}
