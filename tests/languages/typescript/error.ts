const a: any = null;
a.x;
