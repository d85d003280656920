process.stdout.write(require('fs').readFileSync('out.txt'));
