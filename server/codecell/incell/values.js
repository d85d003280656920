
// What a program's last expression is worth, beside what it prints: one record in the form of
// values.py. In front of kernel.js, behind standby.js; all that it uses is taken before a program
// can have put its own in its place.
function makeValues() {
  const { inspect, types } = require('util');
  const EventEmitter = require('events');
  const { openSync, writeSync, closeSync, constants } = fs;
  const { from, concat, alloc } = Buffer;
  const { stringify } = JSON;
  const FILE = '/tmp/.codecell-values';
  const TEXT_CHARS = 20_000;
  const JSON_BYTES = 200_000;
  const NODES = 20_000;
  const DEPTH = 40;
  const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
  const FLAGS = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK;
  const timer = setTimeout(() => {}, 1);
  const immediate = setImmediate(() => {});
  const started = [EventEmitter, timer.constructor, immediate.constructor];
  clearTimeout(timer);
  clearImmediate(immediate);

  // A copy of what JSON can hold, made without asking the program for anything.
  function copy(value, left, depth) {
    if (--left.nodes < 0 || depth > DEPTH) throw left;
    if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
    if (Number.isFinite(value)) return value;
    if (typeof value !== 'object' || types.isProxy(value)) throw left;
    const above = Object.getPrototypeOf(value);
    const list = Array.isArray(value);
    if (above !== (list ? Array.prototype : Object.prototype) && (list || above !== null)) {
      throw left;
    }
    const made = list ? [] : Object.create(null);
    const names = Reflect.ownKeys(value);
    if (list && names.length !== value.length + 1) throw left; // holes, or more than its elements
    for (const name of names) {
      if (list && name === 'length') continue;
      const { enumerable, value: inner } = Reflect.getOwnPropertyDescriptor(value, name);
      if (typeof name !== 'string' || !enumerable || inner === undefined) throw left;
      made[name] = copy(inner, left, depth + 1);
    }
    return made;
  }

  function json(value) {
    try {
      const text = stringify(copy(value, { nodes: NODES }, 0));
      return text.length <= JSON_BYTES ? from(text) : undefined;
    } catch {
      return undefined; // it is none
    }
  }

  // What a program starts is not what it is worth: a timer, a stream or a server.
  const isStarted = (value) => started.some((kind) => value instanceof kind);

  function write(text, notes, more) {
    const cut = text.length > TEXT_CHARS;
    const data = from(cut ? `${text.slice(0, TEXT_CHARS)}...` : text);
    const parts = [['text/plain', data.length, cut]];
    if (more !== undefined) parts.push(['application/json', more.length, false]);
    const head = from(stringify({ role: 'result', parts, notes }));
    const size = alloc(4);
    size.writeUInt32BE(head.length);
    const record = concat([size, head, data, ...(more === undefined ? [] : [more])]);
    const file = openSync(FILE, FLAGS, 0o600);
    for (let at = 0; at < record.length; ) at += writeSync(file, record, at);
    closeSync(file);
  }

  let promise; // what it has come to is known at the end
  // Shows a value, whatever that does; an undefined one is none, as in node's own console.
  function show(value) {
    try {
      if (value === undefined || (typeof value === 'object' && isStarted(value))) return;
      if (types.isPromise(value)) {
        promise = value;
        return;
      }
      let text;
      const notes = [];
      try {
        text = inspect(value);
      } catch {
        text = `<${typeof value}>`;
        notes.push('it is left out: showing it raised an error');
      }
      write(text, notes, json(value));
    } catch {
      // There is no room for it, or the program has put something else there.
    }
  }

  function end() {
    if (promise === undefined) return;
    try {
      const text = inspect(promise);
      if (!/^Promise \{\s*(?:undefined|<pending>|<rejected>)/.test(text)) write(text, []);
    } catch {
      // As above.
    }
  }
  return { FILE, show, end };
}

// A program is a function's body to node, and has no value. Where it ends in an expression, this
// appends a line that hands the value over, and changes nothing that a trace could show: an
// `instanceof` takes whatever is on its left. That it is an expression, whole, and what may stand
// there unbracketed is asked of V8; where in doubt there is no value.
function makeValued(name) {
  const { compileFunction } = require('vm');
  const MOST = 100_000; // characters
  const OTHERWISE =
    /^(?:console\.|(?:const|let|var|function|class|async function|if|for|while|do|switch|try|return|throw|with|import|export|break|continue|debugger)\b|\(async\b|\/\/|\{)/;
  const compiles = (text) => {
    try {
      compileFunction(text);
      return true;
    } catch {
      return false;
    }
  };
  const isExpression = (text) => compiles(`(\n${text}\n)`) && compiles(text);

  // The start of the last statement, as far as its first line is the last one without indentation.
  function lastStart(source) {
    let at = source.length;
    do {
      at = at > 0 ? source.lastIndexOf('\n', at - 1) : -1;
    } while (at >= 0 && /^(?:[\s)\]}]|\/\/)/.test(source.slice(at + 1, at + 3)));
    return at + 1;
  }

  // The same text without the semicolon at its end, if that makes it an expression.
  function bare(text) {
    if (text.endsWith(';')) text = `${text.slice(0, -1)} `;
    if (isExpression(text)) return text;
    const at = text.search(/;\s*\/\//);
    if (at >= 0) text = `${text.slice(0, at)} ${text.slice(at + 1)}`;
    return at >= 0 && isExpression(text) ? text : undefined;
  }

  function split(source) {
    let start = lastStart(source);
    let line = source.slice(start);
    if (!OTHERWISE.test(line)) {
      const last = bare(line);
      if (last !== undefined) return [source.slice(0, start), last];
    }
    const semicolon = line.lastIndexOf(';', line.length - 2); // several statements in one line
    if (semicolon < 0 || line.includes('\n')) return undefined;
    start += semicolon + 1;
    line = source.slice(start);
    const last = OTHERWISE.test(line.trimStart()) ? undefined : bare(line);
    return last && [source.slice(0, start), last];
  }

  // Whether the last statement goes on where the one before it seemed to end.
  const goesOn = (head, last) =>
    /^\s*[([`+\-*/]/.test(last) && !/(?:;|^)\s*$/.test(head) && compiles(`${head}\ninstanceof 0`);

  return function valued(source) {
    const end = source.trimEnd();
    if (end.length > MOST) return source;
    const [head, last] = split(end) ?? [];
    if (last === undefined || last.trim() === '') return source;
    if (!compiles(head) || goesOn(head, last)) return source;
    if (!/[=&^|?,]/.test(last) || compiles(`(class extends ${last}\n{})`)) {
      return `${head}${last}\ninstanceof ${name}`;
    }
    // The bracket is put where the line before ends, so that all columns stay, unless that may be
    // within a comment. The semicolon keeps it from being a call.
    const before = head.slice(head.lastIndexOf('\n', head.length - 2) + 1);
    const above = before.endsWith('\n') && !/\/\/|\/\*|\*\/|`/.test(before);
    const opened = above ? `${head.slice(0, -1)};(\n` : `${head}${head && ';'}(`;
    return `${opened}${last}\n) instanceof ${name}`;
  };
}
