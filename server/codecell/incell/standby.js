// A node started before its program is known. It waits for one byte on descriptor 3, reads its job
// from descriptor 4 and reports on 5 why it could not start; then it is what `node main.js` would be.
'use strict';
const fs = require('fs');
const path = require('path');
const Module = require('module');
const { Console } = console;
const FAREWELL = 43; // see run.py, and the same for
const ENDED_WELL = '(ended well)';

const read = (fd) => {
  const data = Buffer.allocUnsafeSlow(fs.fstatSync(fd).size);
  for (let at = 0; at < data.length; ) {
    at += fs.readSync(fd, data, at, data.length - at, at);
  }
  fs.closeSync(fd);
  return data;
};

const unpack = (job) => JSON.parse(job.toString('utf8'));

// What every run does is done once before there is one, for whatever runs first must be compiled: a
// job is taken, an empty module loaded, lines are formatted and written nowhere; the streams are
// made (the pipes are the run's already).
const blank = path.join(path.dirname(__filename), '.blank.js');
fs.writeFileSync(blank, '{}');
unpack(read(fs.openSync(blank)));
require(blank);
fs.unlinkSync(blank);
process.stdout.write('');
process.stderr.write('');
// No `Writable`: that would leave a tick behind.
const nowhere = new Console({ write() {}, once() {}, removeListener() {} });
nowhere.log('text');
nowhere.log(1, { key: [1] });
nowhere.log('%s %o', 'text', { key: [1] });
const VALUE = 'codecell$value'; // no property of globalThis
const values = makeValues(); // see values.js
require('vm').runInThisContext(`let ${VALUE}; (value) => { ${VALUE} = value; }`)({
  [Symbol.hasInstance]: (value) => values.show(value),
  show: values.show,
});
const valued = makeValued(VALUE);
for (const text of ['const a = 1;\na\n', 'f(1);\na, b; // c', 'console.log()\n']) valued(text);
values.show({ key: [1] });
fs.unlinkSync(values.FILE);
// Node's pool of small buffers begins anew, as full as it is when a program begins.
while (Buffer.allocUnsafe(8).byteOffset !== 0);

// A program that has ended well needs no tearing down of its heap (2 ms), and PID 1 that sees the
// mark does not even wait for the rest. Only then: of a failure node still has to tell after its
// `exit` event.
const { emit, _kill: kill } = process;
const { apply, set } = Reflect;
Object.defineProperty(process, 'emit', {
  configurable: true,
  writable: true,
  enumerable: false,
  value: function (type, code) {
    const result = apply(emit, this, arguments);
    if (type === 'exit' && process._exiting && !process.exitCode && !code) {
      values.end();
      set(process, 'title', ENDED_WELL);
      kill(1, FAREWELL);
      process.reallyExit(0);
    }
    return result;
  },
});
process.emit(''); // compiles it

fs.writeSync(5, '+'); // waiting
const go = Buffer.alloc(1);
if (fs.readSync(3, go, 0, 1, null) === 0) process.reallyExit(0);
if (go[0] === 10) {
  for (const name of [__filename, blank]) delete require.cache[name];
  beginSession(fs); // see kernel.js
} else {
  fs.closeSync(3);

  try {
    const job = unpack(read(4));
    Object.assign(process.env, job.env);
    process.argv = [process.execPath, ...job.argv];
    process.execArgv = [];
  } catch (error) {
    fs.writeSync(5, String(error));
    process.reallyExit(127);
  }
  fs.closeSync(5);
  for (const name of [__filename, blank]) delete require.cache[name];

  // The loader's first read is the program's, and comes before any of it runs.
  const { readFileSync } = fs;
  const readMain = (name, options) => {
    fs.readFileSync = readFileSync;
    const data = readFileSync(name, options);
    return name === process.argv[1] && typeof data === 'string' ? valued(data) : data;
  };
  fs.readFileSync = readMain;
  Module.runMain();
  if (fs.readFileSync === readMain) fs.readFileSync = readFileSync; // it is an ES module
}
