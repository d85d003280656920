// A node started before its program is known. It waits for one byte on descriptor 3, reads its job
// from descriptor 4 and reports on 5 why it could not start; then it is what `node main.js` would be.
'use strict';
const fs = require('fs');
const path = require('path');
const Module = require('module');

void process.stdout; // made now, as they would be on first use: the pipes are the run's already
void process.stderr;

fs.writeSync(5, '+'); // waiting
const go = Buffer.alloc(1);
if (fs.readSync(3, go, 0, 1, null) === 0) process.exit(0);
fs.closeSync(3);

try {
  const size = fs.fstatSync(4).size;
  const data = Buffer.allocUnsafeSlow(size);
  for (let at = 0; at < size; ) at += fs.readSync(4, data, at, size - at, at);
  fs.closeSync(4);
  const start = 4 + data.readUInt32BE(0);
  const head = JSON.parse(data.toString('utf8', 4, start));
  let offset = start;
  for (const [name, mode, length] of head.files) {
    fs.mkdirSync(path.dirname(name), { recursive: true });
    const flags = fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_TRUNC | fs.constants.O_NOFOLLOW;
    const fd = fs.openSync(name, flags, mode);
    for (const end = offset + length; offset < end; ) offset += fs.writeSync(fd, data, offset, end - offset);
    fs.closeSync(fd);
  }
  Object.assign(process.env, head.env);
  process.argv = [process.execPath, ...head.argv];
} catch (error) {
  fs.writeSync(5, String(error));
  process.reallyExit(127);
}
fs.closeSync(5);
delete require.cache[__filename];
Module.runMain();
