SELECT 'hello from sql';
