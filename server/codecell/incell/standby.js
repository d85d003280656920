// A node started before its program is known. It waits for one byte on descriptor 3, reads its job
// from descriptor 4 and reports on 5 why it could not start; then it is what `node main.js` would be.
'use strict';
const fs = require('fs');
const path = require('path');
const util = require('util');
const Module = require('module');

// What every program does first, done once before there is one: the streams are made (the pipes are
// the run's already), an empty module is loaded, a line is formatted and written nowhere.
const blank = path.join(path.dirname(__filename), '.blank.js');
fs.writeFileSync(blank, '');
require(blank);
fs.unlinkSync(blank);
process.stdout.write('');
process.stderr.write('');
util.format('%s %o', 'text', { key: [1] });

// A program that has ended well needs no tearing down of its heap (2 ms). Only then: of a failure
// node still has to tell after its `exit` event.
const { emit } = process;
Object.defineProperty(process, 'emit', {
  configurable: true,
  writable: true,
  enumerable: false,
  value: function (type, code) {
    const result = Reflect.apply(emit, this, arguments);
    if (type === 'exit' && process._exiting && !process.exitCode && !code) process.reallyExit(0);
    return result;
  },
});

fs.writeSync(5, '+'); // waiting
const go = Buffer.alloc(1);
if (fs.readSync(3, go, 0, 1, null) === 0) process.reallyExit(0);
fs.closeSync(3);

try {
  const size = fs.fstatSync(4).size;
  const data = Buffer.allocUnsafeSlow(size);
  for (let at = 0; at < size; ) at += fs.readSync(4, data, at, size - at, at);
  fs.closeSync(4);
  const start = 4 + data.readUInt32BE(0);
  const head = JSON.parse(data.toString('utf8', 4, start));
  let offset = start;
  const { O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW } = fs.constants;
  for (const [name, mode, length] of head.files) {
    fs.mkdirSync(path.dirname(name), { recursive: true });
    const fd = fs.openSync(name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode);
    for (const end = offset + length; offset < end; ) {
      offset += fs.writeSync(fd, data, offset, end - offset);
    }
    fs.closeSync(fd);
  }
  Object.assign(process.env, head.env);
  process.argv = [process.execPath, ...head.argv];
  process.execArgv = [];
} catch (error) {
  fs.writeSync(5, String(error));
  process.reallyExit(127);
}
fs.closeSync(5);
for (const name of [__filename, blank]) delete require.cache[name];
Module.runMain();
