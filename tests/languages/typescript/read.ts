import { readFileSync } from 'fs';

process.stdout.write(readFileSync('out.txt', 'utf8'));
