fn main() {
    print!("{}", std::fs::read_to_string("out.txt").unwrap());
}
