const name: string = "typescript"; console.log(`hello from ${name}`);
