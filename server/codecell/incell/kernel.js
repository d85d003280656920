
// What node is in a session: runs one step after the other in one global scope. Behind standby.js.
// Steps are evaluated as the developer tools' console does it (`replMode` of V8's inspector): await
// works at the top level, and const, let and class may be declared again by a later step.
function beginSession(fs) {
  const inspector = require('inspector');
  const repl = require('repl');
  const vm = require('vm');
  const { PassThrough } = require('stream');
  const { createRequire } = require('module');
  const INTERRUPTED = 130;
  fs.writeSync(5, '+\n');

  const main = '/sandbox/';
  globalThis.require = createRequire(main);
  globalThis.module = { exports: {} };
  globalThis.exports = globalThis.module.exports;
  const session = new inspector.Session();
  session.connect();
  let server; // for what the console can't do: import() needs the module loader
  let step; // the one in flight
  process.argv = [process.execPath];
  process.execArgv = [];

  function post(method, params) {
    return new Promise((resolve, reject) => {
      session.post(method, params, (error, result) => (error ? reject(error) : resolve(result)));
    });
  }

  // SIGINT ends a loop that never yields here, and in the listener below what awaits.
  function interruptible(run) {
    let result;
    const inner = Symbol.for('codecell.step');
    Object.defineProperty(globalThis, inner, { configurable: true, value: () => (result = run()) });
    try {
      vm.runInThisContext("globalThis[Symbol.for('codecell.step')]()", { breakOnSigint: true });
    } finally {
      delete globalThis[inner];
    }
    return result;
  }

  async function evaluate(code, name) {
    if (/\bimport\s*\(/.test(code)) {
      values.show(await evaluateByRepl(code, name));
      return;
    }
    const expression = `${code}\n//# sourceURL=${name}`;
    const params = { expression, replMode: true, awaitPromise: true, objectGroup: 'step' };
    const done = await interruptible(() => post('Runtime.evaluate', params));
    if (done.exceptionDetails) throw new Failure(await described(done.exceptionDetails));
    let { result } = done;
    if (result.subtype === 'promise') {
      const settled = await post('Runtime.awaitPromise', { promiseObjectId: result.objectId });
      if (settled.exceptionDetails) throw new Failure(await described(settled.exceptionDetails));
      result = settled.result;
    }
    await show(result);
  }

  // The value that the step ends in, as the console has it.
  async function show({ objectId, value, unserializableValue: literal }) {
    if (objectId !== undefined) {
      const functionDeclaration = `function () { 'use strict'; ${VALUE}.show(this); }`;
      await post('Runtime.callFunctionOn', { objectId, functionDeclaration });
      await post('Runtime.releaseObjectGroup', { objectGroup: 'step' });
    } else if (literal === undefined) values.show(value);
    else values.show(literal.endsWith('n') ? BigInt(literal.slice(0, -1)) : Number(literal));
  }

  async function described({ exception, text }) {
    if (!exception) return text;
    const { description, value, objectId, subtype } = exception;
    if (subtype === 'error' || objectId === undefined) {
      return description ?? require('util').inspect(value);
    }
    const shown = await post('Runtime.callFunctionOn', {
      objectId,
      functionDeclaration: 'function () { return process.getBuiltinModule?.("util").inspect(this); }',
    });
    return shown.result.value ?? description;
  }

  function evaluateByRepl(code, name) {
    server ??= repl.start({
      input: new PassThrough(),
      output: new PassThrough().resume(),
      prompt: '',
      terminal: false,
      useGlobal: true,
      breakEvalOnSigint: true,
      ignoreUndefined: true,
    });
    return new Promise((resolve, reject) => {
      server.eval(`${code}\n`, globalThis, name, (error, value) => {
        if (error) reject(error);
        else resolve(value);
      });
    });
  }

  class Failure {
    constructor(text) {
      this.text = text;
    }
  }

  // Only the frames of the step itself are shown: what is below them is how it was evaluated.
  function shown(error) {
    let text = error instanceof Failure ? error.text : require('util').inspect(error);
    const below = text.search(/\n\s+at (Session\.post|\S*node:inspector|async Promise\.all)/);
    if (below >= 0) text = text.slice(0, below);
    return `Uncaught ${text}\n`;
  }

  function end(code) {
    const { number } = step;
    step = undefined;
    fs.writeSync(5, `${number} ${code}\n`);
  }

  function fail(error) {
    const interrupted = error?.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED';
    process.stderr.write(interrupted ? 'Interrupted\n' : shown(error));
    return interrupted ? INTERRUPTED : 1;
  }

  process.on('SIGINT', () => {
    const current = step;
    server?.emit('SIGINT');
    current?.interrupt();
  });
  process.on('uncaughtException', (error) => {
    if (error instanceof Exited) return;
    process.stderr.write(shown(error));
    if (step) step.code = 1;
  });
  const { exit } = process;
  process.exit = (code) => {
    if (step === undefined) exit.call(process, code); // nobody asked: the interpreter really ends
    step.exit(code === undefined ? Number(process.exitCode ?? 0) : Number(code) & 0xff);
    throw new Exited();
  };
  class Exited {}

  function take() {
    const data = Buffer.allocUnsafeSlow(fs.fstatSync(4).size);
    for (let at = 0; at < data.length; ) at += fs.readSync(4, data, at, data.length - at, at);
    const end = data.indexOf('\n');
    return { head: JSON.parse(data.toString('utf8', 0, end)), code: data.toString('utf8', end + 1) };
  }

  async function run(number) {
    const current = { number, code: 0 };
    const stopped = new Promise((resolve) => {
      current.interrupt = () => resolve(INTERRUPTED);
      current.exit = (status) => resolve((current.exited = status));
    });
    step = current;
    let code;
    try {
      const job = take();
      Object.assign(process.env, job.head.env);
      process.argv = [process.execPath, '', ...job.head.argv.slice(1)];
      process.exitCode = undefined;
      renewStdin();
      code = await Promise.race([
        evaluate(job.code, `step-${number}.js`).then(() => undefined),
        stopped,
      ]);
    } catch (error) {
      code = current.exited ?? fail(error);
    }
    if (step === current) end(code ?? (current.code || Number(process.exitCode ?? 0) & 0xff));
  }

  // A stream over what this step was given; node makes one once and never looks again.
  let stdin;
  function renewStdin() {
    stdin = undefined;
  }
  Object.defineProperty(process, 'stdin', {
    configurable: true,
    enumerable: true,
    get() {
      stdin ??= Object.assign(fs.createReadStream('', { fd: 0, autoClose: false }), { fd: 0 });
      return stdin;
    },
  });

  // The control pipe keeps node alive between the steps, and what they left behind goes on.
  const socket = new (require('net').Socket)({ fd: 3, readable: true, writable: false });
  let text = '';
  socket.on('data', (data) => {
    text += data;
    const lines = text.split('\n');
    text = lines.pop();
    for (const line of lines) if (line) run(Number(line));
  });
  socket.on('end', () => process.reallyExit(0));
}
