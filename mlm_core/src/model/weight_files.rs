//! Takes a Hugging Face directory, gives of each tensor in its files of weights where the numbers are, and reads them from
//! there, a tensor at a time; which ones a model has is left to [`crate::model::pretrained`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use half::{bf16, f16};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Error, Result};
use crate::files;
use crate::model::pickle;
use crate::model::tensors::TensorFile;

/// The files in which `transformers` looks for weights, in its order, each with the index of one that is in parts.
const FILES: [[&str; 2]; 2] =
    [["model.safetensors", "model.safetensors.index.json"], ["pytorch_model.bin", "pytorch_model.bin.index.json"]];

/// More bytes than the description of any model has.
const LONGEST_PICKLE: u64 = 1 << 26;

/// How a file of `torch.save` begins today, and how it did before torch 1.6.
const ARCHIVE: &[u8] = b"PK";
const BEFORE_1_6: &[u8] = b"\x80\x02\x8a\x0a";

/// So many bytes are read at once.
const CHUNK: usize = 1 << 16;

/// A tensor in a file.
pub(crate) struct Stored {
    pub(crate) path: Rc<Path>,
    pub(crate) shape: Vec<usize>,
    /// How far the numbers along each axis are from each other.
    strides: Vec<usize>,
    /// What they are, in the words of the safetensors format; the name of another kind, if they are one.
    dtype: String,
    /// Where the first of them is.
    start: u64,
}

/// The tensors of a directory, by the names that they have there.
///
/// # Errors
/// When there are none, or a file cannot be read or understood.
pub(crate) fn stored(dir: &Path) -> Result<Vec<(String, Stored)>> {
    let mut tensors = Vec::new();
    for path in paths(dir)? {
        match path.extension().is_some_and(|extension| extension == "bin") {
            true => of_torch(&path, &mut tensors)?,
            false => of_safetensors(&path, &mut tensors)?,
        }
    }
    Ok(tensors)
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>> {
    for [single, index] in FILES.map(|names| names.map(|name| dir.join(name))) {
        if single.exists() {
            return Ok(vec![single]);
        }
        if index.exists() {
            return of_index(dir, &index);
        }
    }
    let names = FILES.map(|[single, _]| single).join(" or ");
    Err(Error::content(dir, "weights", format!("{names}, or an index of their parts"), "neither"))
}

fn of_index(dir: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = files::read_json(index)?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let Some(map) = map.filter(|map| !map.is_empty()) else {
        return Err(Error::content(index, "weight_map", "an object: of each tensor the file", "none"));
    };
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        // A name with a path in it could reach any file of this computer.
        match name.as_str().filter(|name| Path::new(name).file_name().is_some_and(|file| file == *name)) {
            Some(name) => names.insert(name),
            None => return Err(Error::content(index, tensor, "the name of a file beside the index", name)),
        };
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

fn of_safetensors(path: &Path, tensors: &mut Vec<(String, Stored)>) -> Result<()> {
    let shared: Rc<Path> = path.into();
    let file = TensorFile::open(path, "tensors in the safetensors format")?;
    for (name, info, start) in file.tensors() {
        let (shape, strides) = (info.shape.clone(), contiguous(&info.shape));
        tensors
            .push((name, Stored { path: shared.clone(), shape, strides, dtype: format!("{:?}", info.dtype), start }));
    }
    Ok(())
}

/// An archive of `torch.save`: a pickle that describes the tensors, and of each storage a file.
fn of_torch(path: &Path, tensors: &mut Vec<(String, Stored)>) -> Result<()> {
    const EXPECTED: &str = "a state dict as torch.save writes it, of torch 1.6 or later";
    let wrong = |item: &str, actual: &dyn std::fmt::Display| Error::content(path, item, EXPECTED, actual);
    let reading = |source| Error::reading(path, source);
    let mut file = files::open(path)?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(BEFORE_1_6.len() as u64).read_to_end(&mut start).map_err(reading)?;
    if start == BEFORE_1_6 {
        return Err(wrong(
            "the file",
            &"the format of an older one (torch.save(torch.load(file), file) writes today's)",
        ));
    }
    if !start.starts_with(ARCHIVE) {
        return Err(wrong("the file", &format!("one that begins with {:?}", start.escape_ascii().to_string())));
    }
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| wrong("the file", &error))?;
    let names = archive.file_names().map(|name| Ok(name?.into_owned()));
    let names: Vec<String> = names.collect::<Result<_, ZipError>>().map_err(|error| wrong("the file", &error))?;
    let Some(folder) = names.iter().find_map(|name| name.strip_suffix("data.pkl")) else {
        return Err(wrong("data.pkl", &"no such file in the archive"));
    };
    let mut read = |name: &str, most: u64| -> Result<Vec<u8>> {
        let wrong = |actual: &dyn std::fmt::Display| wrong(name, actual);
        let file = archive.by_name(&format!("{folder}{name}")).map_err(|error| wrong(&error))?;
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
        match bytes.len() as u64 > most {
            true => Err(wrong(&format!("more than {most} bytes"))),
            false => Ok(bytes),
        }
    };
    if names.contains(&format!("{folder}byteorder")) {
        let order = read("byteorder", 16)?;
        if order != b"little" {
            return Err(Error::content(path, "byteorder", "little", order.escape_ascii()));
        }
    }
    let pickle = read("data.pkl", LONGEST_PICKLE)?;
    let shared: Rc<Path> = path.into();
    for (name, tensor) in pickle::state_dict(&pickle).map_err(|error| wrong("data.pkl", &error))? {
        let (dtype, size) = match tensor.kind.as_ref() {
            "FloatStorage" => ("F32", 4),
            "HalfStorage" => ("F16", 2),
            "BFloat16Storage" => ("BF16", 2),
            // Another kind is refused where a model has it; until then, its size does not matter.
            other => (other, 1),
        };
        let storage = format!("data/{}", tensor.storage);
        let entry = archive.by_name(&format!("{folder}{storage}")).map_err(|error| wrong(&storage, &error))?;
        let (whole, method) = (entry.size(), entry.compression());
        let Some(start) = entry.data_start().filter(|_| method == CompressionMethod::Stored && !entry.encrypted())
        else {
            return Err(wrong(&storage, &format!("one that is compressed: {method}")));
        };
        let stored = Stored {
            path: shared.clone(),
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
            dtype: dtype.to_owned(),
            start: start + (tensor.offset as u64).saturating_mul(size),
        };
        let end = stored.extent().and_then(|extent| extent.checked_add(tensor.offset as u64)?.checked_mul(size));
        if end.is_none_or(|end| end > whole) {
            let actual = format!("{whole} bytes, for {:?} from number {} on", tensor.shape, tensor.offset);
            return Err(wrong(&storage, &actual));
        }
        tensors.push((name.to_string(), stored));
    }
    Ok(())
}

impl Stored {
    /// From its first number to its last one, in numbers; none, if that is more than there can be.
    fn extent(&self) -> Option<u64> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let mut extent = 1u64;
        for (&length, &stride) in self.shape.iter().zip(&self.strides) {
            extent = extent.checked_add((length as u64 - 1).checked_mul(stride as u64)?)?;
        }
        Some(extent)
    }

    /// Its numbers in f32, as many as its shape has.
    ///
    /// # Errors
    /// When they are of another kind than f32, f16 and bf16, or not finite; when the file cannot be read.
    pub(crate) fn copy(&self, name: &str, values: &mut [f32]) -> Result<()> {
        match self.dtype.as_str() {
            "F32" => self.convert(values, f32::from_le_bytes),
            "F16" => self.convert(values, |bytes| f16::from_le_bytes(bytes).to_f32()),
            "BF16" => self.convert(values, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            other => return Err(Error::content(&self.path, name, "numbers in F32, F16 or BF16", other)),
        }
        .map_err(|source| Error::reading(&self.path, source))?;
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::content(&self.path, name, "finite numbers", value)),
            None => Ok(()),
        }
    }

    fn convert<const SIZE: usize>(
        &self,
        values: &mut [f32],
        number: impl Fn([u8; SIZE]) -> f32,
    ) -> std::io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        if self.strides == contiguous(&self.shape) {
            return read_numbers(&mut file, values, number);
        }
        let mut stored = vec![0.0; self.extent().unwrap_or_default() as usize];
        read_numbers(&mut file, &mut stored, number)?;
        // Which place of the shape comes next, as an odometer counts.
        let mut at = vec![0; self.shape.len()];
        for value in values {
            *value = stored[at.iter().zip(&self.strides).map(|(at, stride)| at * stride).sum::<usize>()];
            for (at, &length) in at.iter_mut().zip(&self.shape).rev() {
                *at += 1;
                if *at < length {
                    break;
                }
                *at = 0;
            }
        }
        Ok(())
    }
}

fn read_numbers<const SIZE: usize>(
    file: &mut File,
    values: &mut [f32],
    number: impl Fn([u8; SIZE]) -> f32,
) -> std::io::Result<()> {
    let mut bytes = [0; CHUNK];
    for values in values.chunks_mut(CHUNK / SIZE) {
        let bytes = &mut bytes[..values.len() * SIZE];
        file.read_exact(bytes)?;
        for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
            *value = number(bytes);
        }
    }
    Ok(())
}

/// The strides of numbers that stand row after row.
fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}
