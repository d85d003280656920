// The TypeScript compiler, loaded before its program is known, with the library's declarations
// parsed and a first program checked. It waits for one byte on descriptor 3, reads its job from
// descriptor 4 and reports on 5 why it could not start; then it is what `tsc main.ts` would be.
'use strict';
const fs = require('fs');
const path = require('path');
const ts = require('/usr/share/nodejs/typescript');

const TOP_LEVEL_AWAIT = 1378;
const options = {
  strict: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.CommonJS,
  moduleResolution: ts.ModuleResolutionKind.NodeJs,
  moduleDetection: ts.ModuleDetectionKind.Force,
  esModuleInterop: true,
  skipLibCheck: true,
  newLine: ts.NewLineKind.LineFeed,
  types: ['node'],
  typeRoots: ['/usr/share/nodejs/@types'],
};
const base = ts.createCompilerHost(options);
const parsed = new Map(); // declarations are parsed once; the program itself never is ahead of time
const host = {
  ...base,
  getSourceFile(name, version, onError) {
    if (name.startsWith('/sandbox/')) return base.getSourceFile(name, version, onError);
    if (!parsed.has(name)) parsed.set(name, base.getSourceFile(name, version, onError));
    return parsed.get(name);
  },
};

function compile(file, emit, old) {
  const program = ts.createProgram([file], options, emit ? host : { ...host, writeFile() {} }, old);
  const found = [...ts.getPreEmitDiagnostics(program)];
  found.push(...program.emit().diagnostics);
  return { program, found: ts.sortAndDeduplicateDiagnostics(found) };
}

// Checking a small program of its own warms the checker, and what it learns of the library stays.
const warmUp = '/sandbox/.warm-up.ts';
fs.writeFileSync(warmUp, 'const a: number[] = [1]; console.log(`${a.map((x) => x + 1).join()}`);\n');
const warm = compile(warmUp, false).program;
fs.unlinkSync(warmUp);

fs.writeSync(5, '+'); // waiting
const go = Buffer.alloc(1);
if (fs.readSync(3, go, 0, 1, null) === 0) process.exit(0);
fs.closeSync(3);

let file;
try {
  const size = fs.fstatSync(4).size;
  const data = Buffer.allocUnsafeSlow(size);
  for (let at = 0; at < size; ) at += fs.readSync(4, data, at, size - at, at);
  fs.closeSync(4);
  [file] = JSON.parse(data.toString()).argv;
} catch (error) {
  fs.writeSync(5, String(error));
  process.reallyExit(127);
}
fs.closeSync(5);
let { program, found } = compile(file, true, warm);
if (found.some((item) => item.code === TOP_LEVEL_AWAIT)) {
  // It takes an ES module, which node knows by its syntax.
  options.module = ts.ModuleKind.ES2022;
  ({ found } = compile(file, true, program));
}
const errors = found.filter((item) => item.category === ts.DiagnosticCategory.Error);
for (const item of found) {
  const text = ts.flattenDiagnosticMessageText(item.messageText, '\n');
  let where = '';
  if (item.file) {
    const at = item.file.getLineAndCharacterOfPosition(item.start);
    where = `${item.file.fileName}:${at.line + 1}:${at.character + 1} - `;
  }
  const kind = ts.DiagnosticCategory[item.category].toLowerCase();
  fs.writeSync(1, `${where}${kind} TS${item.code}: ${text}\n`);
}
process.exitCode = errors.length ? 1 : 0;
