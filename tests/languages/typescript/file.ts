import { writeFileSync } from 'fs';

writeFileSync('out.txt', 'made by typescript\n');
