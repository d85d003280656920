IO.write(File.read!("out.txt"))
