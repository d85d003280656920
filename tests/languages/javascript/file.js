require('fs').writeFileSync('out.txt', 'made by javascript\n');
