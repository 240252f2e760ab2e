//! Takes the `data.pkl` in a file of `torch.save`, gives of each tensor of a state dict where its numbers are; the archive
//! around it is left to [`crate::model::weight_files`].
//!
//! A pickle is a program for a machine with a stack, which may import and call whatever Python has. Nothing is run here: the
//! four functions that make tensors and dictionaries are known by their names, and what others would make is a value of which
//! only the name is known. Nothing is allocated that is larger than the file.
//!
//! Source: `pickletools` in Python's library for the instructions, `torch/_utils.py` for how tensors are rebuilt.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A tensor, as one is described in a pickle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PickledTensor {
    /// The name of the storage that its numbers are in.
    pub(crate) storage: Rc<str>,
    /// What that storage holds, `FloatStorage` for f32.
    pub(crate) kind: Rc<str>,
    /// Where its first number is, in numbers.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// How far the numbers along each axis are from each other.
    pub(crate) strides: Vec<usize>,
}

/// The tensors of a state dict by their names, in its order.
pub(crate) type StateDict = Vec<(Rc<str>, Rc<PickledTensor>)>;

/// Reads a state dict.
///
/// # Errors
/// What there is instead.
pub(crate) fn state_dict(pickle: &[u8]) -> Result<StateDict, String> {
    let items = match Machine::default().run(pickle)? {
        Value::Dict(items) => items,
        other => return Err(other.name()),
    };
    let tensor = |(key, value): &(Value, Value)| match (key, value) {
        (Value::Text(name), Value::Tensor(tensor)) => Some((name.clone(), tensor.clone())),
        _ => None,
    };
    let items = items.borrow();
    let tensors: StateDict = items.iter().filter_map(tensor).collect();
    if tensors.is_empty() {
        let key =
            |(key, _): &(Value, Value)| if let Value::Text(name) = key { format!("{name:?}") } else { key.name() };
        let keys: Vec<String> = items.iter().take(4).map(key).collect();
        return Err(format!("a dictionary without tensors, of {} items: {}", items.len(), keys.join(", ")));
    }
    Ok(tensors)
}

/// Tuples in tuples, at most; what is deeper is no part of a tensor.
const DEPTH: usize = 8;

#[derive(Clone, Debug)]
enum Value {
    None,
    Bool,
    Int(i64),
    Text(Rc<str>),
    /// With the depth of its deepest part.
    Tuple(Rc<[Value]>, usize),
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// Something that would be imported.
    Import(Rc<str>),
    Storage {
        name: Rc<str>,
        kind: Rc<str>,
    },
    Tensor(Rc<PickledTensor>),
    /// What is of no use here, by its name.
    Other(Rc<str>),
}

impl Value {
    fn other(name: &str) -> Self {
        Self::Other(name.into())
    }

    fn tuple(items: Vec<Value>) -> Self {
        let depth = |value: &Value| if let Value::Tuple(_, depth) = value { *depth } else { 0 };
        match 1 + items.iter().map(depth).max().unwrap_or(0) {
            depth if depth <= DEPTH => Self::Tuple(items.into(), depth),
            _ => Self::other("a tuple"),
        }
    }

    /// What it is, for an error.
    fn name(&self) -> String {
        match self {
            Self::None | Self::Bool | Self::Int(_) | Self::Text(_) => "a value".to_owned(),
            Self::Tuple(..) => "a tuple".to_owned(),
            Self::Dict(_) => "a dictionary".to_owned(),
            Self::Storage { .. } => "a storage".to_owned(),
            Self::Tensor(_) => "a tensor".to_owned(),
            Self::Import(name) | Self::Other(name) => name.to_string(),
        }
    }

    fn count(&self) -> Option<usize> {
        match self {
            Self::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    fn counts(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(items, _) => items.iter().map(Self::count).collect(),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Machine {
    stack: Vec<Value>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
}

impl Machine {
    fn run(mut self, pickle: &[u8]) -> Result<Value, String> {
        let mut bytes = Bytes(pickle);
        loop {
            match bytes.number::<1>()? as u8 {
                0x80 => _ = bytes.take(1)?,                // PROTO
                0x95 => _ = bytes.take(8)?,                // FRAME
                b'.' => return self.pop(),                 // STOP
                b'(' => self.marks.push(self.stack.len()), // MARK
                // What stands for itself.
                b'N' => self.stack.push(Value::None),        // NONE
                0x88 | 0x89 => self.stack.push(Value::Bool), // NEWTRUE, NEWFALSE
                b'K' => self.stack.push(Value::Int(bytes.number::<1>()? as i64)), // BININT1
                b'M' => self.stack.push(Value::Int(bytes.number::<2>()? as i64)), // BININT2
                b'J' => self.stack.push(Value::Int(bytes.number::<4>()? as i32 as i64)), // BININT
                0x8a => {
                    // LONG1
                    let length = bytes.number::<1>()?;
                    self.stack.push(long(bytes.take(length)?));
                }
                b'G' => {
                    // BINFLOAT
                    bytes.take(8)?;
                    self.stack.push(Value::other("a number"));
                }
                0x8c => self.text(bytes.number::<1>()?, &mut bytes)?, // SHORT_BINUNICODE
                b'X' => self.text(bytes.number::<4>()?, &mut bytes)?, // BINUNICODE
                0x8d => self.text(bytes.number::<8>()?, &mut bytes)?, // BINUNICODE8
                // What holds others.
                b')' => self.stack.push(Value::tuple(Vec::new())), // EMPTY_TUPLE
                b't' => {
                    // TUPLE
                    let items = self.pop_to_mark()?;
                    self.stack.push(Value::tuple(items));
                }
                count @ 0x85..=0x87 => {
                    // TUPLE1 to TUPLE3
                    let start = self.stack.len().checked_sub(usize::from(count - 0x84)).ok_or_else(too_few)?;
                    let items = self.stack.split_off(start);
                    self.stack.push(Value::tuple(items));
                }
                b'}' => self.stack.push(Value::Dict(Rc::default())), // EMPTY_DICT
                b's' => {
                    // SETITEM
                    let start = self.stack.len().checked_sub(2).ok_or_else(too_few)?;
                    let items = self.stack.split_off(start);
                    self.set_items(items)?;
                }
                b'u' => {
                    // SETITEMS
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                b']' => self.stack.push(Value::other("a list")), // EMPTY_LIST
                b'a' => _ = self.pop()?,                         // APPEND
                b'e' => _ = self.pop_to_mark()?,                 // APPENDS
                // What was there before.
                b'q' => self.put(bytes.number::<1>()?)?, // BINPUT
                b'r' => self.put(bytes.number::<4>()?)?, // LONG_BINPUT
                0x94 => self.put(self.memo.len())?,      // MEMOIZE
                b'h' => self.get(bytes.number::<1>()?)?, // BINGET
                b'j' => self.get(bytes.number::<4>()?)?, // LONG_BINGET
                // What Python would import or call.
                b'c' => {
                    // GLOBAL
                    let (module, name) = (bytes.line()?, bytes.line()?);
                    self.stack.push(Value::Import(format!("{module}.{name}").into()));
                }
                0x93 => {
                    // STACK_GLOBAL
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(name), Value::Text(module)) = (name, module) else { return Err(too_few()) };
                    self.stack.push(Value::Import(format!("{module}.{name}").into()));
                }
                b'Q' => {
                    // BINPERSID
                    let storage = storage(&self.pop()?);
                    self.stack.push(storage);
                }
                b'R' | 0x81 => {
                    // REDUCE, NEWOBJ
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    self.stack.push(called(&callable, &arguments));
                }
                b'b' => _ = self.pop()?, // BUILD
                other => return Err(format!("an instruction {other:#04x}, which torch.save does not write")),
            }
        }
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(too_few)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => Err(too_few()),
        }
    }

    fn text(&mut self, length: usize, bytes: &mut Bytes<'_>) -> Result<(), String> {
        let text = str::from_utf8(bytes.take(length)?).map_err(|error| error.to_string())?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    /// Puts keys and values, in turns, into the dictionary below them.
    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let Some(Value::Dict(dict)) = self.stack.last() {
            let mut dict = dict.borrow_mut();
            for pair in items.as_chunks::<2>().0 {
                let [key, value] = pair.clone();
                // Of what is deeper, nothing is a tensor of the model.
                dict.push((key, if let Value::Dict(_) = value { Value::other("a dictionary") } else { value }));
            }
        }
        Ok(())
    }

    fn put(&mut self, id: usize) -> Result<(), String> {
        let value = self.stack.last().ok_or_else(too_few)?;
        self.memo.insert(id, value.clone());
        Ok(())
    }

    fn get(&mut self, id: usize) -> Result<(), String> {
        let value = self.memo.get(&id).ok_or_else(too_few)?;
        self.stack.push(value.clone());
        Ok(())
    }
}

fn too_few() -> String {
    "a pickle that takes what it has not put there".to_owned()
}

/// What is left of a pickle.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a pickle that ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of so many bytes, the lowest first.
    fn number<const SIZE: usize>(&mut self) -> Result<usize, String> {
        let bytes = self.take(SIZE)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.0.iter().position(|&byte| byte == b'\n').ok_or("a pickle that ends too early")?;
        let line = str::from_utf8(self.take(length)?).map_err(|error| error.to_string())?;
        self.take(1)?;
        Ok(line)
    }
}

/// A number in two's complement, the lowest byte first.
fn long(bytes: &[u8]) -> Value {
    let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { u8::MAX } else { 0 };
    let mut all = [sign; 8];
    match all.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return Value::other("a number"),
    }
    Value::Int(i64::from_le_bytes(all))
}

/// What `torch` makes of `("storage", its class, its name, a device, how many numbers)`.
fn storage(id: &Value) -> Value {
    match id {
        Value::Tuple(parts, _) => match parts.as_ref() {
            [_, Value::Import(class), Value::Text(name), ..] => {
                let kind = class.rsplit('.').next().unwrap_or_default();
                Value::Storage { name: name.clone(), kind: kind.into() }
            }
            _ => Value::other("a storage"),
        },
        _ => Value::other("a storage"),
    }
}

/// What a function makes of its arguments, if it is one that makes tensors or dictionaries.
fn called(callable: &Value, arguments: &Value) -> Value {
    let (Value::Import(name), Value::Tuple(arguments, _)) = (callable, arguments) else {
        return Value::other("an object");
    };
    match (name.as_ref(), arguments.as_ref()) {
        ("collections.OrderedDict", []) => Value::Dict(Rc::default()),
        ("torch._utils._rebuild_tensor_v2", [Value::Storage { name, kind }, offset, shape, strides, ..]) => {
            match (offset.count(), shape.counts(), strides.counts()) {
                (Some(offset), Some(shape), Some(strides)) if shape.len() == strides.len() => {
                    let (storage, kind) = (name.clone(), kind.clone());
                    Value::Tensor(PickledTensor { storage, kind, offset, shape, strides }.into())
                }
                _ => Value::other("a tensor"),
            }
        }
        ("torch._utils._rebuild_parameter", [tensor @ Value::Tensor(_), ..]) => tensor.clone(),
        ("torch._tensor._rebuild_from_type_v2", [function, _, arguments, _]) => called(function, arguments),
        _ => Value::Other(name.clone()),
    }
}
